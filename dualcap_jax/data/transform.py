"""The one way from an image of any shape to the square that the encoder reads."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dualcap_jax.data.images import decode_image
from dualcap_jax.data.reading import ImagesConfig
from dualcap_jax.errors import require

Interpolation = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class ImageTransform:
    """The shorter side resized (by PIL, antialiased), then the centre cut out.

    This is what torchvision's `Resize(resize)` and `CenterCrop(size)` do with a PIL image. An image of `size` x `size`
    passes unchanged where `resize` is `size`.
    """

    size: int
    """Side of the square, in pixels."""
    resize: int
    """Length of the shorter side before the crop, in pixels, at least `size`."""
    interpolation: Interpolation = "bilinear"
    """How it is resized."""
    images: ImagesConfig = field(default_factory=ImagesConfig, compare=False)
    """Which images `open` and `decode` read."""

    def __post_init__(self) -> None:
        """Check each field."""
        require(self.size >= 1, "image_size", self.size, "must be at least 1")
        require(self.resize >= self.size, "resize", self.resize, "must be at least the image size")

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
        """Transform an RGB image; returns its RGB values, 0 to 255."""
        (width, height), size = image.size, self.size
        shorter, longer = self.resize, int(self.resize * max(width, height) / min(width, height))
        new_width, new_height = (shorter, longer) if width <= height else (longer, shorter)
        if (width, height) == (new_width, new_height) == (size, size):
            return np.asarray(image)
        # Resizing only what the crop keeps is a quarter less work for a 4:3 image than cropping afterwards, and
        # gives the same but for the rounding: one or two percent of a photograph's values differ, by 1 of 255.
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        scale_x, scale_y = width / new_width, height / new_height
        right, bottom = min((left + size) * scale_x, width), min((top + size) * scale_y, height)
        return self._resized(image, (left * scale_x, top * scale_y, right, bottom))

    def squash(self, image: Image.Image) -> UInt8[np.ndarray, "size size 3"]:
        """All of an RGB image resized to the square, its proportions given up; returns RGB values, 0 to 255."""
        return self._resized(image, (0, 0, *image.size))

    def open(self, data: bytes, name: str = "") -> Image.Image:
        """Decode an encoded image, of this name, into an RGB image yet to be transformed.

        Raises:
            ImageError: as `decode_image`.
        """
        return decode_image(data, self.images, name)

    def decode(self, data: bytes, name: str = "") -> UInt8[np.ndarray, "size size 3"]:
        """Decode an encoded image, and transform it.

        Raises:
            ImageError: as `decode_image`.
        """
        return self(self.open(data, name))

    def random_crop(
        self, image: Image.Image, scale: float, rng: np.random.Generator
    ) -> UInt8[np.ndarray, "size size 3"]:
        """Resize a random part of an RGB image, as torchvision's `RandomResizedCrop` chooses it.

        Args:
            image: to crop.
            scale: smallest share of the image's area that is kept.
            rng: chooses share, aspect (3:4 to 4:3) and place.

        Returns:
            RGB values, 0 to 255.
        """
        sides = np.array([image.width, image.height])
        for _ in range(10):
            area = sides.prod() * rng.uniform(scale, 1)
            aspect = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
            part = np.sqrt([area * aspect, area / aspect])
            if (part <= sides).all():
                start = rng.uniform(0, sides - part)
                break
        else:  # the largest part of such an aspect, in the centre
            part = np.minimum(sides, sides[::-1] * 4 / 3)
            start = (sides - part) / 2
        (left, top), (right, bottom) = start, start + part
        return self._resized(image, (left, top, right, bottom))

    def _resized(self, image: Image.Image, box: tuple[float, float, float, float]) -> UInt8[np.ndarray, "size size 3"]:
        return np.asarray(image.resize((self.size, self.size), _FILTERS[self.interpolation], box=box))
