"""What every source of boxes gives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

from dualcap_jax.data.records import Faults
from dualcap_jax.data.transform import ImageTransform


class Boxes(NamedTuple):
    """The boxes of one image."""

    corners: Float32[np.ndarray, "boxes 4"]
    """Top, left, bottom, right, in shares of the image's height and width: 0 to 1."""
    classes: Int32[np.ndarray, " boxes"]
    """Number of each box's class, from 0."""
    crowd: Bool[np.ndarray, " boxes"]
    """Whether it stands for many objects. Such boxes are not trained on; what is found in them is not counted."""


@dataclass(frozen=True)
class BoxedImage:
    """The index entry of one image: its boxes, and where its bytes are read when asked for."""

    image_id: int
    """The image's number in its set, from 0."""
    filename: str
    """The image's name as its set writes it."""
    size: tuple[int, int]
    """Width and height in pixels that its set gives it."""
    read_image: Callable[[], bytes]
    """Returns the encoded image; raises OSError when its file can't be read."""
    boxes: Boxes
    """What is in it."""


@runtime_checkable
class BoxSource(Protocol):
    """Images with boxes, by position. `source[i]` is always the same, and reads no image."""

    faults: Faults
    """What was found wrong so far; unreadable images are only found, and added, when they are decoded."""
    transform: ImageTransform
    """To what the detector reads, by `squash`."""
    names: tuple[str, ...]
    """Of the classes, by number; empty where a number is no class."""
    most: int
    """Boxes of an image at most, those of crowds left out."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int) -> BoxedImage:
        """The image at a position, 0 to len - 1."""
