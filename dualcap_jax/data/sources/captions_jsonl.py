"""A folder with captions.jsonl, and the images beside it.

A line is `{"image": "a.jpg", "captions": ["..."]}`, or has "caption" and one text; it may give a "split".
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.entries import Entry, Line, get, is_name, split_of
from dualcap_jax.data.sources.texts import read_lines

NAME = "captions.jsonl"
MEND = "Mark some of its images with the split '{split}' in captions.jsonl"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    path = Path(config.root) / NAME
    return split_of(_lines(path, faults), [path.parent], path.name, config, split, faults)


def _lines(path: Path, faults: Faults) -> Iterator[Line]:
    for number, line in read_lines(path, faults):
        where = f"{path.name}:{number}"
        try:
            row: object = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            faults.report("malformed line", f"{where}: not a line of JSON ({error})")
            continue
        if not line.strip():
            continue
        image, captions, caption, split = (get(row, key) for key in ("image", "captions", "caption", "split"))
        if captions is None and caption is not None:
            captions = [caption]
        if not isinstance(captions, list) or not is_name(image):
            message = 'is not {"image": "NAME", "captions": ["...", ...]}'
            faults.report("malformed line", f"{where}: {message}")
            continue
        yield where, image, captions, None if split is None else str(split)
