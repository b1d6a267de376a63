"""The embedded set as a source: scenes drawn and captioned when asked for."""

from functools import cached_property, partial
from random import Random

import numpy as np
from jaxtyping import Int

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError, Faults, Record
from dualcap_jax.data.scenes.captions import CAPTIONS_PER_SCENE, write_captions
from dualcap_jax.data.scenes.drawing import Shape, draw_scene, lay_out
from dualcap_jax.data.scenes.scene import Scene, sample_scene
from dualcap_jax.data.sources.entries import SPLITS


class ScenesSource:
    """Records of the embedded set. See `Source`.

    A record's image id is its index. Images are drawn when asked for and kept in memory, about 2 kB each at 64 px.
    """

    def __init__(self, config: DataConfig, split: str):
        """`config.scenes` describes the set, whose splits are "train", "validation" and "test"."""
        if split not in SPLITS:
            raise DataError(f"the embedded scenes have no split '{split}'; they have {', '.join(SPLITS)}")
        self._config, self._split = config.scenes, split
        self.transform, self.faults = config.transform, Faults()
        self._side = config.scenes.picture_size or self.transform.resize
        self._images: dict[int, bytes] = {}

    def __len__(self) -> int:
        """Number of scenes."""
        size: int = getattr(self._config, self._split)
        return size

    def __getitem__(self, index: int) -> Record:
        """The record at a position."""
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        captions = write_captions(self.scene(index), self._rng("captions", index))
        return Record(index, self.filenames[index], captions, partial(self._image, index))

    @property
    def caption_counts(self) -> Int[np.ndarray, " records"]:
        """Captions of each record."""
        return np.full(len(self), CAPTIONS_PER_SCENE)

    @cached_property
    def filenames(self) -> list[str]:
        """Name of each record's image."""
        return [f"{self._split}-{index:06d}.png" for index in range(len(self))]

    def scene(self, image_id: int) -> Scene:
        """The ground truth: what the image with this id shows."""
        return sample_scene(self._rng("scene", image_id), self._config.max_groups, unseen=self._split == "test")

    def shapes(self, image_id: int) -> list[Shape]:
        """Where each shape stands in the image with this id."""
        return lay_out(self.scene(image_id), self._rng("picture", image_id))[1]

    def _image(self, index: int) -> bytes:
        if index not in self._images:
            self._images[index] = draw_scene(self.scene(index), self._rng("picture", index), self._side)
        return self._images[index]

    def _rng(self, part: str, index: int) -> Random:
        return Random(f"{self._config.seed} {self._split} {index} {part}")
