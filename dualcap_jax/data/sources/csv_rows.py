"""Tables of images and captions: CSV as people and spreadsheets write it."""

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from dualcap_jax.data.folders import suffixes
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import Line, is_name
from dualcap_jax.data.sources.texts import read_lines

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


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


@dataclass(frozen=True)
class _Header:
    """What the first line of a table says."""

    separator: str
    columns: list[str]
    image: int
    """The image's column."""
    caption: int
    split: int | None
    """None where there is none."""


def has_columns(path: Path, image: str, captions: Sequence[str]) -> bool:
    """Whether a file is a table with a column for images and one of those for captions."""
    lines = _Lines([line for _, line in read_lines(path, Faults("skip"), end="\n")])
    try:
        _read_header(path, lines, image, captions)
    except DataError:
        return False
    return True


def read_csv(path: Path, image: str, captions: Sequence[str], faults: Faults, name: str = "") -> Iterator[Line]:
    """The rows of a table, whose columns are parted by commas, semicolons, tabs or bars.

    Args:
        path: the file.
        image: the column that names images.
        captions: what the column of captions may be called.
        faults: what to do about a row that is broken.
        name: of the file, for messages, where it needs its folder.

    Raises:
        DataError: it is no such table.
    """
    name = name or path.name
    lines = _Lines([line for _, line in read_lines(path, faults, end="\n", name=name)])
    header = _read_header(path, lines, image, captions)
    columns, separator = header.columns, header.separator
    rows = csv.reader(lines, delimiter=separator)

    while lines.read < len(lines.lines):
        first = lines.read
        values: list[str] = []
        broken = ""
        try:
            values = next(rows)
        except csv.Error as error:
            broken = str(error)
        where = f"{name}:{first + 1}"
        swallowed = lines.lines[first + 1 : lines.read]
        if row := next(filter(None, (_image_of(line, header, path.parent) for line in swallowed)), None):
            rows, lines.read = csv.reader(lines, delimiter=separator), first + 1
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
        needed = max(header.image, header.caption)
        if len(values) > len(columns) or len(values) <= needed or not is_name(values[header.image]):
            what = f"has {len(values)}" if len(values) != len(columns) else "the image's is empty"
            quote = f"quote a caption that has a {SEPARATORS[separator]}"
            faults.report("malformed line", f"{where}: needs {len(columns)} values ({quote}); {what}")
            continue
        split = values[header.split].strip() if header.split is not None and header.split < len(values) else ""
        yield where, values[header.image], [values[header.caption]], split or None


def _read_header(path: Path, lines: _Lines, image: str, captions: Sequence[str]) -> _Header:
    """Read the first line, and the one before it that tells Excel the separator.

    Raises:
        DataError: it lacks a column.
    """
    if lines.lines and lines.lines[0].lower().startswith("sep="):
        next(lines)
    start = lines.read
    columns: list[str] = []
    for separator in SEPARATORS:
        lines.read = start
        try:
            row = [name.strip() for name in _without_empty_end(next(csv.reader(lines, delimiter=separator), []), 0)]
        except csv.Error as error:
            raise DataError(f"{path}:{lines.read}: not CSV ({error})") from None
        folded = [name.casefold() for name in row]
        columns = columns or row
        caption = next((name for name in captions if name in folded), None)
        if image in folded and caption:
            if twice := [name for name, count in Counter(folded).items() if name and count > 1]:
                raise DataError(f"{path}: has the column '{twice[0]}' twice; write each caption in a row of its own")
            split = folded.index("split") if "split" in folded else None
            return _Header(separator, row, folded.index(image), folded.index(caption), split)
    wanted = f"columns '{image}' and '{captions[0]}', separated by commas, in its first line"
    raise DataError(f"{path}: needs {wanted}; has {columns}")


def _without_empty_end(values: list[str], least: int) -> list[str]:
    """A row without the empty cells after its last column."""
    while len(values) > least and not values[-1].strip():
        values = values[:-1]
    return values


def _image_of(line: str, header: _Header, directory: Path) -> str | None:
    """The image that a line is about, if it is a row of its own."""
    try:
        values = next(csv.reader([line], delimiter=header.separator), [])
    except csv.Error:
        return None
    if len(values) < 2 or len(values) <= header.image:
        return None
    image = values[header.image]
    has_ending = PurePath(image).suffix.lower() in suffixes()
    return image if is_name(image) and (has_ending or (directory / image).is_file()) else None
