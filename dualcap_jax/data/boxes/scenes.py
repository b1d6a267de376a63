"""The boxes of the embedded scenes, which their drawing tells."""

from itertools import product

import numpy as np

from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.data.boxes.records import BoxedImage, Boxes
from dualcap_jax.data.records import Faults
from dualcap_jax.data.scenes.scene import COLOURS, COUNTS, SHAPES
from dualcap_jax.data.sources.scenes import ScenesSource

CLASSES = tuple(product(COLOURS, SHAPES))
"""Colour and shape: what a caption calls an object. Its count and relation are what the boxes tell."""


class SceneBoxes:
    """Scenes with a box for each shape. See `BoxSource`."""

    names = tuple(map(" ".join, CLASSES))

    def __init__(self, config: BoxesConfig, split: str):
        """`config.scenes` describes the set, whose splits are "train", "validation" and "test"."""
        self._scenes = ScenesSource(config.images, split)
        self.transform, self.faults = self._scenes.transform, Faults()
        self.most = config.scenes.max_groups * max(COUNTS)
        self._side = config.scenes.picture_size or config.image_size

    def __len__(self) -> int:
        """Number of scenes."""
        return len(self._scenes)

    def __getitem__(self, index: int) -> BoxedImage:
        """The scene at a position."""
        record, shapes = self._scenes[index], self._scenes.shapes(index)
        corners = np.array([shape.box for shape in shapes], np.float32)[:, [1, 0, 3, 2]]
        classes = np.array([CLASSES.index((shape.colour, shape.shape)) for shape in shapes], np.int32)
        boxes = Boxes(corners, classes, np.zeros(len(shapes), bool))
        return BoxedImage(index, record.filename, (self._side, self._side), record.read_image, boxes)
