"""A folder with captions.csv, and the images beside it, or where their names lead from the current directory, as in
what `caption --out` writes.

It has the columns image and caption, and perhaps split.
"""

from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.csv_rows import read_csv
from dualcap_jax.data.sources.entries import Entry, among, split_of

NAME = "captions.csv"
MEND = "Mark some of its images with the split '{split}' in captions.csv"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    lines = read_csv(root / NAME, "image", ("caption",), faults)
    return split_of(lines, among([root, Path()]), NAME, config, split, faults)
