"""A folder with captions.csv, and the images beside it.

It has the columns image and caption, and perhaps split.
"""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.folders import suffixes
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Entry, Line, is_name, split_of
from dualcap_jax.data.sources.texts import read_lines

NAME = "captions.csv"
MEND = "Mark some of its images with the split '{split}' in captions.csv"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return (root / NAME).is_file()


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    path = Path(config.root) / NAME
    return split_of(lines_of(path, faults), [path.parent], path.name, config, split, faults)


class _Lines:
    """Lines of a file, with a place that can be set back."""

    def __init__(self, lines: Sequence[str]):
        self.lines, self.read = lines, 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.read == len(self.lines):
            raise StopIteration
        self.read += 1
        return self.lines[self.read - 1]


def lines_of(path: Path, faults: Faults) -> Iterator[Line]:
    """The rows of a captions file, images looked up by none of them.

    Raises:
        DataError: it is not CSV, or lacks a column; other faults as `faults` has it.
    """
    lines = _Lines([line for _, line in read_lines(path, faults, end="\n")])
    rows = csv.reader(lines)
    try:
        columns = [name.strip() for name in _without_empty_end(next(rows, []), 0)]
    except csv.Error as error:
        raise DataError(f"{path}:{lines.read}: not CSV ({error})") from None
    if not {"image", "caption"} <= set(columns):
        raise DataError(f"{path}: needs columns 'image' and 'caption', separated by commas; has {columns}")
    if twice := [name for name, count in Counter(columns).items() if name and count > 1]:
        raise DataError(f"{path}: has the column '{twice[0]}' twice; write each caption in a row of its own")

    while lines.read < len(lines.lines):
        first = lines.read
        values: list[str] = []
        broken = ""
        try:
            values = next(rows)
        except csv.Error as error:
            broken = str(error)
        where = f"{path.name}:{first + 1}"
        swallowed = lines.lines[first + 1 : lines.read]
        if row := next(filter(None, (_image_of(line, columns, path.parent) for line in swallowed)), None):
            rows, lines.read = csv.reader(lines), first + 1
            message = (
                f"a quotation mark is not closed, so that the row of image '{row}' becomes a part of the caption; "
                'close it, or write a caption that has some like """Stop"" says the sign."'
            )
            faults.report("malformed line", f"{where}: {message}")
            continue
        if broken:
            raise DataError(f"{path}:{lines.read}: not CSV ({broken})")
        values = _without_empty_end(values, len(columns))
        if not any(value.strip() for value in values):
            continue  # as Excel leaves them at the end
        named = dict(zip(columns, values, strict=False))
        if len(values) > len(columns) or "caption" not in named or not is_name(named.get("image")):
            what = f"has {len(values)}" if len(values) != len(columns) else "the image's is empty"
            message = f"needs {len(columns)} values (quote a caption that has a comma); {what}"
            faults.report("malformed line", f"{where}: {message}")
            continue
        yield where, named["image"], [named["caption"]], named.get("split", "").strip() or None


def _without_empty_end(values: list[str], least: int) -> list[str]:
    """A row without the empty cells after its last column."""
    while len(values) > least and not values[-1].strip():
        values = values[:-1]
    return values


def _image_of(line: str, columns: list[str], directory: Path) -> str | None:
    """The image that a line is about, if it is a row of its own."""
    try:
        values = next(csv.reader([line]), [])
    except csv.Error:
        return None
    if len(values) < 2 or len(values) <= columns.index("image"):
        return None
    image = values[columns.index("image")]
    has_ending = PurePath(image).suffix.lower() in suffixes()
    return image if is_name(image) and (has_ending or (directory / image).is_file()) else None
