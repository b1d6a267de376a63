"""What the layouts on disk share: an image as its layout lists it, and the way from lines of a file to splits."""

import hashlib
import itertools
import posixpath
import re
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.archives import File, Place
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.names import Found, look_up
from dualcap_jax.data.records import Faults, Record
from dualcap_jax.data.sources.texts import unescape
from dualcap_jax.data.text import normalize_caption
from dualcap_jax.data.transform import ImageTransform

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
"""The split that each name in a layout stands for."""
SPLIT_WORDS = {**SPLIT_NAMES, "training": "train", "valid": "validation", "dev": "validation", "testing": "test"}
"""The same for names of folders and files."""


@dataclass
class Entry:
    """One image as its layout lists it; the image itself has not been opened."""

    image_id: int
    filename: str
    path: File
    captions: list[str] = field(default_factory=list)
    caption_ids: list[int] = field(default_factory=list)
    """The layout's own numbers of the captions, or their places in the file."""
    size: tuple[int, int] | None = None
    """Width and height, where the layout gives them."""


class EntriesSource:
    """Records of entries; images are read from their files. See `Source`."""

    def __init__(self, entries: list[Entry], transform: ImageTransform, faults: Faults):
        """`entries`: the usable images of one split. `faults`: what was wrong with the others."""
        self._entries, self.transform, self.faults = entries, transform, faults

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        entry = self._entries[index]
        return Record(entry.image_id, entry.filename, tuple(entry.captions), entry.path.read_bytes)

    @cached_property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.array([len(entry.captions) for entry in self._entries])

    @property
    def filenames(self) -> list[str]:
        """Name of each record's image."""
        return [entry.filename for entry in self._entries]


Line = tuple[str, str, list[object], str | None]
"""Of a captions file: its place for messages, the image, the captions as they stand there, the split or None."""


def split_of(
    lines: Iterable[Line], find: Callable[[str], Found], source: str, config: DataConfig, split: str, faults: Faults
) -> tuple[list[Entry], list[str]]:
    """The images of one split of a captions file, none where there is no such split; and the names of all splits.

    Lines with the same image, whatever they call it, add captions to it. An image's id is its place among the file's
    images, in order of first mention. Where some line names a split, those that name none are for training; where no
    line does, the images are divided by `config.validation_fraction` and `config.split_seed`: by names alone, never by
    what else is broken.

    Args:
        lines: of the file.
        find: looks an image up by its name.
        source: the file's name, for messages.
        config: says how images are divided.
        split: that is wanted.
        faults: what to do about faults.
    """
    entries: dict[str, Entry] = {}
    splits: dict[str, str | None] = {}
    rejected: set[str] = set()
    known: dict[str, str] = {}  # a name in the file -> the image's
    names: dict[Hashable, str] = {}
    numbers = itertools.count()
    for where, written, captions, name in lines:
        if name not in (None, *SPLIT_NAMES):
            faults.report("malformed line", f"{where}: split '{name}' is none of train, validation, test")
            continue
        named = SPLIT_NAMES[name] if name else None
        if written not in known:
            found = find(posixpath.normpath(written))
            image = known[written] = names.setdefault(found.identity, found.name)
            if image not in entries:
                splits[image] = named
                if found.file is None:
                    rejected.add(image)
                    faults.report("missing image", f"{where}: image '{written}' {found.trouble}")
                entries[image] = Entry(len(entries), image, found.file or Path(written))
        image = known[written]
        if (named or "train") != (splits[image] or "train"):
            alias = "" if image == written else f" (as '{image}')"
            faults.report("contradictory split", f"{where}: image '{written}' was in another split before{alias}")
            continue
        if image not in rejected:
            for caption in captions:
                add_caption(entries[image], next(numbers), caption, where, faults)

    if not any(splits.values()):
        splits = _divide(list(entries), config.validation_fraction, config.split_seed)
    usable = with_captions((entry for image, entry in entries.items() if image not in rejected), source, faults)
    of_split = [entry for entry in usable if (splits[entry.filename] or "train") == split]
    return of_split, sorted({splits[entry.filename] or "train" for entry in usable})


def among(places: Sequence[Place]) -> Callable[[str], Found]:
    """How images are looked up that lie in one of these places."""
    return lambda name: look_up((place, name) for place in places)


def split_of_folder(name: str) -> str | None:
    """The split that a folder is named after, as train/ or val2014/ are."""
    return SPLIT_WORDS.get(name.lower().rstrip("0123456789"))


def split_of_file(name: str) -> str | None:
    """The one split that a file's name has in it, as coco_karpathy_val.json has."""
    found = {SPLIT_WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in SPLIT_WORDS}
    return found.pop() if len(found) == 1 else None


COCO_NUMBER = re.compile(r"(?:COCO_[a-z]+\d{4}_)?(\d{12})\.jpg")


def coco_number(filename: str) -> int | None:
    """The number of an image of COCO by its name, which is 2014's or 2017's; None for others."""
    match = COCO_NUMBER.fullmatch(posixpath.basename(filename))
    return int(match[1]) if match else None


def get(row: object, key: str) -> Any:
    """What a row of JSON holds under a key, or None."""
    return row.get(key) if isinstance(row, dict) else None


def is_id(number: object) -> TypeGuard[int]:
    """Whether this is a whole number from 0 of 63 bits."""
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def is_name(image: object) -> TypeGuard[str]:
    """Whether this can be a file's name."""
    return isinstance(image, str) and image != "" and "\x00" not in image


def add_caption(entry: Entry, number: int, caption: object, where: str, faults: Faults) -> None:
    """Add a caption, evened out, to an entry; report one that is empty or no text."""
    if not isinstance(caption, str):
        faults.report("malformed caption", f"{where}: a caption of image '{entry.filename}' is not text")
    elif text := normalize_caption(unescape(caption)):
        entry.captions.append(text)
        entry.caption_ids.append(number)
    else:
        faults.report("empty caption", f"{where}: a caption of image '{entry.filename}' is empty")


def with_captions(entries: Iterable[Entry], name: str, faults: Faults) -> list[Entry]:
    """The entries that have captions; the others are reported as the file's of this name."""
    kept = []
    for entry in entries:
        if entry.captions:
            kept.append(entry)
        else:
            faults.report("image without captions", f"{name}: image '{entry.filename}' has no caption")
    return kept


def _divide(images: list[str], fraction: float, seed: int) -> dict[str, str | None]:
    """Part images by the rank of their hashes: the same images give the same parts in any order."""
    ranked = sorted(
        images, key=lambda image: hashlib.sha256(f"{seed} {image}".encode("utf-8", "surrogatepass")).digest()
    )
    held_out = round(fraction * len(images))
    if fraction > 0 and len(images) > 1:
        held_out = min(max(held_out, 1), len(images) - 1)
    return {image: "validation" if rank < held_out else "train" for rank, image in enumerate(ranked)}
