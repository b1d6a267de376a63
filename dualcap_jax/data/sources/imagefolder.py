"""Hugging Face's imagefolder: metadata.jsonl or metadata.csv beside the images, of all or of each split's folder."""

import posixpath
from collections.abc import Iterator
from pathlib import Path

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.csv_rows import read_csv
from dualcap_jax.data.sources.entries import Entry, Line, among, split_of, split_of_folder
from dualcap_jax.data.sources.jsonl import read_jsonl

NAME = "metadata.{jsonl,csv} (imagefolder)"
MEND = "Put some of its images, with their metadata, into the folder {split}/"
CAPTIONS = ("text", "caption", "captions")


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return bool(_files(root))


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    root = Path(config.root)
    lines = (line for path in _files(root) for line in _lines(root, path, faults))
    return split_of(lines, among([root]), "metadata", config, split, faults)


def _files(root: Path) -> list[Path]:
    """The metadata of each folder.

    Raises:
        DataError: a folder has it twice.
    """
    found: dict[Path, Path] = {}
    for pattern in ("metadata.jsonl", "metadata.csv", "*/metadata.jsonl", "*/metadata.csv"):
        for path in sorted(root.glob(pattern)):
            if other := found.get(path.parent):
                raise DataError(f"{path.parent}: holds {other.name} and {path.name}: keep one of them")
            found[path.parent] = path
    return list(found.values())


def _lines(root: Path, path: Path, faults: Faults) -> Iterator[Line]:
    folder, name = path.parent.relative_to(root).as_posix(), path.relative_to(root).as_posix()
    if path.suffix == ".csv":
        rows = read_csv(path, "file_name", CAPTIONS, faults, name)
    else:
        rows = read_jsonl(path, "file_name", CAPTIONS, faults, name)
    for where, image, captions, split in rows:
        image = posixpath.join(folder, image) if folder != "." else image
        first = image.replace("\\", "/").removeprefix("./").split("/")[0]
        yield where, image, captions, split or split_of_folder(first)
