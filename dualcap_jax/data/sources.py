"""Where records come from: a set on disk, or the embedded scenes."""

from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.folders import SPLITS, Entry, coco_pictures, find_coco_annotations, read_captions_file, read_coco
from dualcap_jax.data.prepared import find_prepared, open_prepared, read_metadata
from dualcap_jax.data.records import DataError, Faults, Record, Source
from dualcap_jax.data.scenes import Scene, sample_scene
from dualcap_jax.data.scenes_captions import CAPTIONS_PER_SCENE, write_captions
from dualcap_jax.data.scenes_drawing import draw_scene


class FolderSource:
    """Records of a set on disk; pictures are read when asked for. See `Source`."""

    def __init__(self, entries: list[Entry], faults: Faults):
        """`entries`: the usable images of one split. `faults`: what was wrong with the others."""
        self._entries = entries
        self.faults = faults
        self.cropped = False

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        entry = self._entries[index]
        return Record(entry.image_id, entry.filename, tuple(entry.captions), entry.path.read_bytes)

    @property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.array([len(entry.captions) for entry in self._entries])

    @property
    def filenames(self) -> list[str]:
        """Name of each record's picture."""
        return [entry.filename for entry in self._entries]


class ScenesSource:
    """Records of the embedded set. See `Source`.

    A record's image id is its index. Pictures are drawn when asked for and kept in memory, about 2 kB each at 64 px.
    """

    def __init__(self, config: ScenesConfig, split: str, picture_size: int):
        """`split`: "train", "validation" or "test". `picture_size`: side of the pictures in pixels."""
        self._config, self._split, self._picture_size = config, split, picture_size
        self._pictures: dict[int, bytes] = {}
        self.faults = Faults()
        self.cropped = False

    def __len__(self) -> int:
        """Number of scenes."""
        size: int = getattr(self._config, self._split)
        return size

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        captions = write_captions(self.scene(index), self._rng("captions", index))
        return Record(index, self.filenames[index], captions, partial(self._picture, index))

    @property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.full(len(self), CAPTIONS_PER_SCENE)

    @cached_property
    def filenames(self) -> list[str]:
        """Name of each record's picture."""
        return [f"{self._split}-{index:06d}.png" for index in range(len(self))]

    def scene(self, image_id: int) -> Scene:
        """The ground truth: what the picture with this id shows."""
        return sample_scene(self._rng("scene", image_id), self._config.max_groups, unseen=self._split == "test")

    def _picture(self, index: int) -> bytes:
        if index not in self._pictures:
            self._pictures[index] = draw_scene(self.scene(index), self._rng("picture", index), self._picture_size)
        return self._pictures[index]

    def _rng(self, part: str, index: int) -> Random:
        return Random(f"{self._config.seed} {self._split} {index} {part}")


def fitting(root: str, on_error: Literal["raise", "skip"] = "raise") -> DataConfig:
    """A configuration that reads whatever lies in a directory, of prepared squares those that were stored.

    Raises:
        DataError: there are several prepared sets.
    """
    directory = find_prepared(Path(root)) if root else None
    stored = read_metadata(directory)["pictures"] if directory else None
    return DataConfig(root=root, on_error=on_error, **(stored or {}))


def open_source(config: DataConfig, split: str) -> Source:
    """Open one split of the configured set.

    Args:
        config: `root` empty for the embedded scenes; else a directory with annotations/captions_*.json (COCO),
            or captions.jsonl, or captions.csv, or what scripts/prepare_coco.py made of one of them.
        split: "train", "validation" or "test".

    Returns:
        Its records. `faults.summary()` says what had to be skipped, where `on_error` is "skip".

    Raises:
        DataError: there is no such set or split; it has nothing usable; or, where `on_error` is "raise", anything
            in it is broken.
    """
    if config.root == "":
        if split not in SPLITS:
            raise DataError(f"the embedded scenes have no split '{split}'; they have {', '.join(SPLITS)}")
        scenes = config.scenes
        return ScenesSource(scenes, split, scenes.picture_size or config.resized_side)

    faults = Faults(config.on_error)
    if prepared := find_prepared(Path(config.root)):
        if others := _layouts(Path(config.root)):
            raise DataError(
                f"data.root='{config.root}' holds {others[0]} and a prepared set: name that one, '{prepared}'"
            )
        return open_prepared(prepared, config, split, faults)
    entries, available = read_entries(config, split, faults)
    if entries:
        return FolderSource(entries, faults)
    if split not in available and available:
        raise DataError(f"data.root='{config.root}' has no split '{split}'; it has {', '.join(available)}")
    raise DataError(f"data.root='{config.root}' has no usable record for '{split}': {faults.summary()}")


def read_entries(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """The images of one split of a COCO layout or a captions file, none where there is no such split; all its splits.

    Raises:
        DataError: `config.root` is no such set; faults in it, as `faults` has it.
    """
    layout = _find_layout(Path(config.root))
    if isinstance(layout, dict):  # COCO: each split has its own file
        read = read_coco(layout[split], coco_pictures(layout[split]), faults) if split in layout else []
        return read, sorted(layout)
    divided = read_captions_file(layout, faults, config.validation_fraction, config.split_seed)
    return divided.get(split, []), sorted(divided)


def _find_layout(root: Path) -> dict[str, Path] | Path:
    """COCO's annotation files by split, or the captions file."""
    if not root.is_dir():
        raise DataError(f"data.root='{root}' is not a directory")
    names = _layouts(root)
    if len(names) > 1:
        raise DataError(f"data.root='{root}' holds {' and '.join(names)}: keep one of them")
    if not names:
        raise DataError(
            f"data.root='{root}' holds no annotations/captions_{{train,val}}*.json (a COCO layout), no "
            "captions.jsonl, no captions.csv and no prepared set"
        )
    return find_coco_annotations(root) or root / names[0]


def _layouts(root: Path) -> list[str]:
    """The layouts that a directory holds, by what tells them."""
    coco = ["annotations/captions_*.json"] if find_coco_annotations(root) else []
    return coco + [name for name in ("captions.jsonl", "captions.csv") if (root / name).is_file()]


def iterate_captions(source: Source) -> Iterator[str]:
    """Every caption of a source, without reading a picture: what a tokenizer is trained on."""
    for index in range(len(source)):
        yield from source[index].captions


def refuse_shared_images(train: Source, other: Source, split: str) -> None:
    """No picture that was trained on may be scored: names of one set are compared.

    Raises:
        DataError: one is in both.
    """
    if shared := set(train.filenames) & set(other.filenames):
        raise DataError(
            f"{len(shared)} images of {split} are trained on too, such as '{min(shared)}': a score on them would "
            "mean nothing"
        )
