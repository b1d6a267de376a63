"""Flickr30k as Kaggle gives it out: results.csv, `image_name| comment_number| comment`, and flickr30k_images/.

Nothing in it is quoted, and one of its rows lacks the second bar.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.archives import File
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, Line, among, split_of
from dualcap_jax.data.sources.places import FLICKR, find_file, find_places
from dualcap_jax.data.sources.texts import read_lines

NAME = "results.csv with columns image_name| comment_number| comment (Kaggle's Flickr30k)"
MEND = "Put Karpathy's dataset_flickr30k.json beside it, whose splits are then taken"
FILE = "results.csv"
HEADER = re.compile(r"\s*image_name\s*[|;]\s*comment_number\s*[|;]\s*comment\s*", re.IGNORECASE)
ROW = re.compile(r"(?P<image>[^|;]+)[|;]\s*\d+\s*(?:[|;]|\s)\s*(?P<caption>.*)")


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return _find(root) is not None


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    file = _find(root)
    if file is None:
        raise DataError(f"{root}: holds no {NAME}")
    find = among([*find_places(root, *FLICKR), root])
    return split_of(_lines(file, faults), find, FILE, config, split, faults)


def _find(root: Path) -> File | None:
    file = find_file([root, *find_places(root, "flickr30k_images")], FILE)
    if file is None:
        return None
    lines = read_lines(file, Faults("skip"))
    return file if HEADER.fullmatch(lines[0][1]) else None


def _lines(file: File, faults: Faults) -> Iterator[Line]:
    for number, line in read_lines(file, faults)[1:]:
        where = f"{file.name}:{number}"
        match = ROW.fullmatch(line)
        if match:
            yield where, match["image"].strip(), [match["caption"]], None
        elif line.strip():
            message = "is not IMAGE| NUMBER| CAPTION; put it in a line of its own"
            faults.report("malformed line", f"{where}: {message}")
