"""A folder with captions.jsonl, and the images beside it.

A line is `{"image": "a.jpg", "captions": ["..."]}`, or has "caption" and one text; it may give a "split".
"""

import json
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.entries import Entry, Line, get, is_name, split_of

NAME = "captions.jsonl"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    path = Path(config.root) / NAME
    return split_of(_lines(path, faults), path, config, split, faults)


def _lines(path: Path, faults: Faults) -> Iterator[Line]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path.name}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
                row: object = json.loads(text) if text else None
            except (ValueError, RecursionError) as error:
                faults.report("malformed line", f"{where}: not a line of JSON ({error})")
                continue
            if not text:
                continue
            image, captions, caption, split = (get(row, key) for key in ("image", "captions", "caption", "split"))
            if captions is None and caption is not None:
                captions = [caption]
            if not isinstance(captions, list) or not is_name(image):
                message = 'is not {"image": "NAME", "captions": ["...", ...]}'
                faults.report("malformed line", f"{where}: {message}")
                continue
            yield where, image, captions, None if split is None else str(split)
