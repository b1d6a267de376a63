"""Where records come from: a set on disk, in one of several layouts, or the embedded scenes.

A layout is one module here and its name in `LAYOUTS`.
"""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.prepared.reader import find_prepared, open_prepared, read_metadata, stored_transform
from dualcap_jax.data.reading import ReadingConfig
from dualcap_jax.data.records import DataError, Faults, Source
from dualcap_jax.data.sources import (
    captions_csv,
    captions_jsonl,
    captions_txt,
    coco,
    flickr8k,
    flickr30k,
    imagefolder,
    karpathy,
    lavis,
    sidecar,
    webdataset,
)
from dualcap_jax.data.sources.entries import EntriesSource, Entry, coco_number
from dualcap_jax.data.sources.scenes import ScenesSource


@runtime_checkable
class Layout(Protocol):
    """What the module of a layout on disk holds."""

    NAME: str
    """The files in a directory that tell the layout, for messages."""
    MEND: str
    """How a split comes into a set that lacks it, with `{split}` for its name."""

    def is_in(self, root: Path) -> bool:
        """Whether a directory holds this layout.

        Raises:
            DataError: it is of the kind, but not sound.
        """

    def read_split(self, config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
        """The images of one split, none where there is no such split; and the names of all splits.

        Raises:
            DataError: the set is not sound; or, as `faults` has it, a line of it is not.
        """


LAYOUTS: tuple[Layout, ...] = (
    coco,
    captions_jsonl,
    captions_csv,
    karpathy,
    lavis,
    flickr8k,
    captions_txt,
    flickr30k,
    imagefolder,
    webdataset,
    sidecar,
)
"""In order: a directory that fits several is read as the first of them."""
KARPATHYS = (karpathy, lavis)
"""Of which COCO is in Karpathy's division."""
ALONE = LAYOUTS[:3]
"""Of which there must be only one: the file of one may be an older copy of the other's."""


def open_source(config: DataConfig, split: str) -> Source:
    """Open one split of the configured set.

    Args:
        config: `root` empty for the embedded scenes; else a directory of one of `LAYOUTS`, or what
            scripts/prepare_coco.py made of one of them.
        split: "train", "validation" or "test".

    Returns:
        Its records. `faults.summary()` says what had to be skipped, where `on_error` is "skip".

    Raises:
        DataError: there is no such set or split; it has nothing usable; or, where `on_error` is "raise", anything
            in it is broken.
    """
    if config.root == "":
        return ScenesSource(config, split)
    root, faults = Path(config.root), Faults(config.on_error)
    if prepared := find_prepared(root):
        if other := layout_of(root):
            raise DataError(f"data.root='{root}' holds {other.NAME} and a prepared set: name that one, '{prepared}'")
        return open_prepared(prepared, config, split, faults)
    entries, available = read_entries(config, split, faults)
    if entries:
        return EntriesSource(entries, config.transform, faults)
    if split not in available and available and (layout := layout_of(root)):
        there = f"data.root='{root}' has no split '{split}'; it has {', '.join(available)}"
        raise DataError(f"{there}. {_mend(config, split, layout)}")
    raise DataError(f"data.root='{root}' has no usable record for '{split}': {faults.summary()}")


def _mend(config: DataConfig, split: str, layout: Layout) -> str:
    """How a split comes into a set that lacks it."""
    faults = Faults("skip")
    mend = layout.MEND.format(split=split)
    if split != "validation":
        return mend
    divided = replace(config, validation_fraction=0.1)
    if config.validation_fraction == 0 and read_entries(divided, split, faults)[0]:
        return f"{mend}, or keep a share of them with --data.validation-fraction 0.1"
    images, available = read_entries(config, "train", faults)
    if len(images) == 1 and available == ["train"]:
        return "One image can't be in both: add a second, and one is kept for validation"
    return mend


def read_entries(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """The images of one split of a layout on disk, none where there is no such split; and the names of all splits.

    Raises:
        DataError: `config.root` is no such set; faults in it, as `faults` has it.
    """
    root = Path(config.root)
    try:
        return _read_entries(root, config, split, faults)
    except OSError as error:
        raise DataError(f"{error.filename or root}: can't be read ({error.strerror or error})") from None


def _read_entries(root: Path, config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    if not root.is_dir():
        raise DataError(f"data.root='{root}' is not a directory")
    layout = layout_of(root)
    if layout is None:
        sought = ", no ".join(layout.NAME for layout in LAYOUTS)
        raise DataError(f"data.root='{root}' holds no {sought} and no prepared set")
    return layout.read_split(config, split, faults)


def layout_of(root: Path) -> Layout | None:
    """The layout of a directory, if it has any.

    Raises:
        DataError: it has several that must be alone, or one that is not sound.
    """
    if len(found := [layout for layout in ALONE if layout.is_in(root)]) > 1:
        raise DataError(f"data.root='{root}' holds {' and '.join(layout.NAME for layout in found)}: keep one of them")
    return next((layout for layout in LAYOUTS if layout.is_in(root)), None)


def fitting(root: str, reading: ReadingConfig | None = None) -> DataConfig:
    """A configuration that reads whatever lies in a directory, of prepared squares those that were stored.

    Args:
        root: the directory.
        reading: which images are read, and what is done about what is broken; None: what is usual.

    Raises:
        DataError: there are several prepared sets.
    """
    config = DataConfig(root=root, **asdict(reading or ReadingConfig()))
    directory = find_prepared(Path(root)) if root else None
    stored = stored_transform(read_metadata(directory)) if directory else None
    if stored is None:
        return config
    return replace(config, image_size=stored.size, resize=stored.resize, interpolation=stored.interpolation)


def iterate_captions(source: Source) -> Iterator[str]:
    """Every caption of a source, without reading an image: what a tokenizer is trained on."""
    for index in range(len(source)):
        yield from source[index].captions


def refuse_shared_images(train: Source, other: Source, split: str, compare: bool = True) -> None:
    """No image that was trained on may be scored: of one name, and of the same bytes where these are compared.

    Args:
        train: what was trained on.
        other: what is to be scored.
        split: its name.
        compare: False where images of one name are one image, whatever was done to them, as COCO's of one number are.

    Raises:
        DataError: one is in both.
    """
    same = str if compare else coco_number
    trained_on = set(map(same, train.filenames))
    shared = {name for name in other.filenames if same(name) in trained_on}
    if shared and compare:  # the same name in two folders need not be the same image
        images, others = _images(train, shared), _images(other, shared)
        shared = {name for name in shared if images[name] & others[name]}
    if shared:
        raise DataError(
            f"{len(shared)} images of {split} are trained on too, such as '{min(shared)}': a score on them would "
            "mean nothing"
        )


def _images(source: Source, names: set[str]) -> dict[str, set[bytes]]:
    """Digests of the images of each of these names, as far as they can be read."""
    found: dict[str, set[bytes]] = {name: set() for name in names}
    for place, name in enumerate(source.filenames):
        if name in names:
            with suppress(OSError):
                found[name].add(hashlib.sha256(source[place].read_image()).digest())
    return found
