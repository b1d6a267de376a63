"""A folder with captions.jsonl, and the images beside it, or where their names lead from the current directory, as in
what `caption --out` writes.

A line is `{"image": "a.jpg", "captions": ["..."]}`, or has "caption" and one text, and perhaps more in "others"; it may
give a "split".
"""

from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.entries import Entry, among, split_of
from dualcap_jax.data.sources.jsonl import read_jsonl

NAME = "captions.jsonl"
MEND = "Mark some of its images with the split '{split}' in captions.jsonl"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    lines = read_jsonl(root / NAME, "image", ("captions", "caption"), faults)
    return split_of(lines, among([root, Path()]), NAME, config, split, faults)
