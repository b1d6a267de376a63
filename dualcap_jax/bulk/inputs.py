"""Images as they are named on a command line: files, folders, patterns, lists, archives, Parquet files."""

import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dualcap_jax.data.archives import Member, members
from dualcap_jax.data.folders import find_images, read_file, suffixes
from dualcap_jax.errors import ConfigError, UserError

ARCHIVES = (".tar", ".zip")
COLUMNS = ("image", "jpg", "png", "bytes", "path", "file_name")
"""Of Parquet files, in the order in which one is taken for the images'."""

Told = Callable[[str, str], None]
"""Takes a name and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Row:
    """An image in a Parquet file."""

    file: Path
    column: str
    group: int
    """Row group."""
    place: int
    """In the group."""
    number: int
    """In the file."""

    def __str__(self) -> str:
        return f"{self.file}/{self.number}"

    def read_bytes(self) -> bytes:
        """The encoded image: the value itself, its field `bytes`, or the content of the file that it names.

        Raises:
            OSError: the file that it names can't be read.
            ValueError: it is none of these.
        """
        value = _column(self.file, self.column, self.group)[self.place].as_py()
        if isinstance(value, dict):  # as Hugging Face's datasets keep images
            value = value.get("bytes") or value.get("path")
        if isinstance(value, str):
            return read_file(self.file.parent / value)
        if not isinstance(value, bytes):
            raise ValueError(f"column {self.column} holds {type(value).__name__}, neither bytes nor a path")
        return value


Item = Path | Member | Row
"""Where an image lies; as text its name."""


def content_of(item: Item) -> bytes:
    """The encoded image.

    Raises:
        OSError, ValueError: it can't be read.
    """
    return read_file(item) if isinstance(item, Path) else item.read_bytes()


def find(asked: Sequence[str], column: str, fail: Told, note: Told) -> Iterator[Item]:
    """The images that were asked for, in order, each once whatever names it has.

    Args:
        asked: files, folders, patterns such as "photos/**/*.jpg", tars, zips and Parquet files; "@LIST" for a file
            with such a name on each line; "-" for such lines on standard input.
        column: of Parquet files; empty: the one that looks like images.
        fail: takes what can't be found or looked into.
        note: takes what is passed over.

    Raises:
        ConfigError: a list or an archive that was named can't be read.
    """
    seen: set[str] = set()
    for name in _spread(asked):
        for item in _in(name, column, fail, note):
            one = os.path.realpath(item) if isinstance(item, Path) else str(item)
            if one not in seen:
                seen.add(one)
                yield item


def _spread(asked: Iterable[str]) -> Iterator[str]:
    for name in asked:
        if name == "-":
            yield from filter(None, (line.rstrip("\r\n") for line in sys.stdin))
        elif name.startswith("@") and not os.path.exists(name):
            try:
                text = Path(name[1:]).read_text(encoding="utf-8-sig", errors="surrogateescape")
            except OSError as error:
                raise ConfigError(f"{name}: the list can't be read: {error.strerror}") from None
            yield from filter(None, text.splitlines())
        else:
            yield name


def _in(name: str, column: str, fail: Told, note: Told) -> Iterator[Item]:
    path = Path(name)
    if os.path.isdir(path):  # never raises: what is wrong is told when the file is read
        found = find_images(path)
        for folder, reason in found.unreadable:
            fail(str(folder), f"{reason}: its images are left out")
        if not found.images:
            fail(name, f"no images in this folder{found.summary and f' ({found.summary})'}")
        elif found.summary:
            note(name, found.summary)
        yield from found.images
    elif path.suffix.lower() in ARCHIVES and os.path.isfile(path):
        inside = [member for inner, member in members(path).items() if Path(inner).suffix.lower() in suffixes()]
        if not inside:
            fail(name, "no images in this archive")
        yield from inside
    elif path.suffix.lower() == ".parquet" and os.path.isfile(path):
        yield from _rows(path, column)
    elif any(each in name for each in "*?[") and not os.path.lexists(path):
        matching = sorted(glob.glob(name, recursive=True))
        if not matching:
            fail(name, "no file has a name of this pattern")
        for each in matching:
            yield from _in(each, column, fail, note)
    else:
        yield path


def _rows(path: Path, column: str) -> Iterator[Row]:
    """The images of a Parquet file.

    Raises:
        ConfigError: it can't be read, or has no such column.
    """
    try:
        opened = parquet()[1].ParquetFile(path)
    except (OSError, ValueError) as error:  # pyarrow's own errors are such
        raise ConfigError(f"{path}: no Parquet file that can be read ({str(error).splitlines()[0]})") from None
    names = opened.schema_arrow.names
    column = column or next(
        (name for name in ("image", "jpg", "png", "bytes", "path", "file_name") if name in names), ""
    )
    if column not in names:
        raise ConfigError(
            f"{path}: {'no column ' + column if column else 'no column that looks like images'}; give --column NAME, "
            f"of {', '.join(names)}"
        )
    number = 0
    for group in range(opened.num_row_groups):
        for place in range(opened.metadata.row_group(group).num_rows):
            yield Row(path, column, group, place, number)
            number += 1


@lru_cache(maxsize=4)
def _column(path: Path, column: str, group: int) -> Any:
    return parquet()[1].ParquetFile(path).read_row_group(group, columns=[column]).column(0)


def parquet() -> tuple[Any, Any]:
    """pyarrow, and its module for Parquet files.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError:
        raise UserError("Parquet files need pyarrow: pip install 'dualcap-jax[parquet]'") from None
    return pyarrow, pyarrow.parquet
