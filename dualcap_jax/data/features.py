"""What a frozen encoder makes of a split's images, computed once and kept on disk in 16 bits.

A directory of one split holds `features.json` (what the features were made with, and the images in their order, each
with its id, name and captions; written last, so that a directory that has it is whole), `vector.npy` float16
[views * images, features] and, for each stride, `maps_STRIDE.npy` float16 [views * images, height, width, channels]:
one view of all images after the other.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int

from dualcap_jax.data.images import ImageError
from dualcap_jax.data.records import DataError, Record, Source
from dualcap_jax.files import write_text

WHOLE, UNFINISHED = "features.json", "unfinished.json"

KEPT_EVERY = 20
"""Batches after which what was encoded is safe from an interruption."""

MAPS = "maps_"
"""What the names of feature maps begin with; their stride follows."""

Arrays = dict[str, np.ndarray]
"""`vector` and `maps_STRIDE`; each [images, ...]."""


class EncodedSource:
    """A source whose images are encoded already. See `Source`; the features may be made after this object."""

    def __init__(self, source: Source, directory: Path, strides: Sequence[int] = ()):
        """`directory`: of the source's features; `strides`: of those feature maps that are read beside the vector."""
        self._source, self._directory = source, directory
        self._names = _names(strides)
        self.faults, self.transform = source.faults, source.transform

    def __len__(self) -> int:
        """Number of records."""
        return len(self._source)

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        return self._source[index]

    @property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return self._source.caption_counts

    @property
    def filenames(self) -> Sequence[str]:
        """Name of each record's image."""
        return self._source.filenames

    def features(self, index: int, turn: int = 0) -> dict[str, Float16[np.ndarray, "..."]]:
        """`vector` and each `maps_STRIDE` that is read, of the image at a position; of several views the one whose turn
        it is.

        Raises:
            ImageError: it could not be read when the images were encoded.
        """
        if (message := self._unreadable.get(str(index))) is not None:
            raise ImageError(message)
        views = len(self._arrays["vector"]) // len(self)
        row = index + len(self) * (turn % views)
        return {name: np.array(array[row]) for name, array in self._arrays.items()}

    @cached_property
    def _arrays(self) -> Arrays:
        return {name: np.load(self._directory / f"{name}.npy", mmap_mode="r") for name in self._names}

    @cached_property
    def _unreadable(self) -> dict[str, str]:
        return json.loads((self._directory / WHOLE).read_bytes())["unreadable"]

    def __getstate__(self) -> dict[str, Any]:  # a worker process maps the files itself
        return {name: value for name, value in vars(self).items() if name not in ("_arrays", "_unreadable")}


def _names(strides: Iterable[int]) -> list[str]:
    return ["vector", *(f"{MAPS}{stride}" for stride in strides)]


def index_of(source: Source) -> list[tuple[int, str, tuple[str, ...]]]:
    """Id, name and captions of each image."""
    records = map(source.__getitem__, range(len(source)))
    return [(record.image_id, record.filename, record.captions) for record in records]


def is_whole(directory: Path, made_with: Mapping[str, Any], source: Source) -> bool:
    """Whether a directory holds the features of a source, those of further strides perhaps with them.

    Args:
        directory: of one split.
        made_with: what they must have been made with.
        source: the images.

    Raises:
        DataError: it holds others, made with something else or of other images; or a file of it is gone.
    """
    for name in (WHOLE, UNFINISHED):
        if (directory / name).is_file():
            there = _read(directory / name)
            _refuse_others(directory, there, made_with, source, name == WHOLE)
            if name == WHOLE:
                for path in (directory / f"{name}.npy" for name in _names(made_with["strides"])):
                    if not path.is_file():
                        raise DataError(f"{path}: is gone; delete {directory}, and it is made anew")
            return name == WHOLE
    return False


def _read(path: Path) -> dict[str, Any]:
    try:
        there = json.loads(path.read_bytes())
        there["made_with"].items(), there["images"], there["unreadable"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: broken ({error!r}); delete {path.parent}, and it is made anew") from None
    return there


def _refuse_others(
    directory: Path, there: Mapping[str, Any], made_with: Mapping[str, Any], source: Source, is_whole: bool
) -> None:
    mend = "give another directory with --data.features, or delete this one"
    for name, wanted in made_with.items():
        value = there["made_with"].get(name)
        further = name == "strides" and is_whole and set(wanted) <= set(value or ())
        if value != wanted and not further:
            raise DataError(f"{directory}: its features were made with {name} {value}, not {wanted}; {mend}")
    if there["images"] != json.loads(json.dumps(index_of(source))):
        raise DataError(f"{directory}: its features are of other images or captions; {mend}")


def write(
    directory: Path,
    made_with: Mapping[str, Any],
    source: Source,
    shapes: Mapping[str, tuple[int, ...]],
    views: int,
    encode: Callable[[int], Iterable[tuple[list[int], Arrays, dict[int, str]]]],
) -> None:
    """Compute the features of a source; an interrupted computation goes on where it was.

    Args:
        directory: of one split; made where need be.
        made_with: what the features are made with, for whom it concerns later.
        source: the images.
        shapes: of one image's features, by name.
        views: of each image.
        encode: `(start) -> batches`: from the view at this position on. Of each batch the positions of its images,
            their features, and what is wrong with images that could not be read, by position.

    Raises:
        DataError: the disk has no room; a value does not fit in 16 bits; or what `encode` raises.
    """
    directory.mkdir(parents=True, exist_ok=True)
    images = views * len(source)
    needed = sum(2 * images * int(np.prod(shape)) for shape in shapes.values())
    paths = {name: directory / f"{name}.npy" for name in shapes}
    progress, start, unreadable = directory / UNFINISHED, 0, {}
    if progress.is_file() and all(path.is_file() for path in paths.values()):
        there = _read(progress)
        start, unreadable = there["done"], there["unreadable"]
        arrays = {name: np.load(path, mmap_mode="r+") for name, path in paths.items()}
    else:
        if needed > (free := shutil.disk_usage(directory).free):
            raise DataError(
                f"{directory}: the features take {needed / 1e9:.1f} GB, and the disk has {free / 1e9:.1f}; give a "
                "directory on another one with --data.features DIR, or encode at each epoch with --data.features none"
            )
        arrays = {
            name: np.lib.format.open_memmap(path, "w+", np.float16, (images, *shapes[name]))
            for name, path in paths.items()
        }
    about = {"made_with": made_with, "images": index_of(source)}

    def keep(name: str, done: int) -> None:
        for array in arrays.values():
            array.flush()
        write_text(directory / name, json.dumps(about | {"done": done, "unreadable": unreadable}) + "\n")

    for number, (positions, features, broken) in enumerate(encode(start), 1):
        unreadable |= {str(position): message for position, message in broken.items()}
        for name, values in features.items():
            with np.errstate(over="ignore"):
                arrays[name][positions] = values.astype(np.float16)
            if not np.isfinite(arrays[name][positions]).all():
                raise DataError(
                    f"{directory}: {name} of images {positions[0]} to {positions[-1]} does not fit in 16 bits (up to "
                    f"{np.abs(values).max():.3g}); encode at each epoch with --data.features none"
                )
        if number % KEPT_EVERY == 0:
            keep(UNFINISHED, max([*positions, *broken, start]) + 1)
    keep(WHOLE, images)
    progress.unlink(missing_ok=True)
