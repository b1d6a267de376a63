"""Images as users hand them over: paths, encoded images, PIL's, arrays."""

import io
import math
import os
import reprlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dualcap_jax.data.folders import read_file
from dualcap_jax.data.images import ImageError, upright_rgb
from dualcap_jax.data.transform import ImageTransform

Buffer = bytes | bytearray | memoryview
ImageInput = str | os.PathLike | Buffer | Image.Image | np.ndarray
"""A path, an encoded image (JPEG, PNG, WebP, ...), a PIL image or an array uint8 [height, width, 3]."""


def is_alone(images: Any) -> bool:
    """Whether what was handed over is one image, or what should be one, and not several."""
    is_array = getattr(images, "ndim", None) in (2, 3)
    alone = is_array or isinstance(images, str | os.PathLike | Buffer | Image.Image | io.IOBase | dict)
    return alone or not isinstance(images, Iterable)


def open_image(image: Any, transform: ImageTransform) -> Image.Image:
    """An RGB image, yet to be transformed.

    Raises:
        ImageError: it is none, or cannot be read.
    """
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, Buffer):
        return transform.open(bytes(image))
    if isinstance(image, str | os.PathLike):
        try:
            return transform.open(read_file(Path(image)), str(image))
        except ImageError as error:
            raise ImageError(f"{os.fspath(image)}: {error}") from error
    if hasattr(image, "__array__"):
        return upright_rgb(Image.fromarray(_pixels(np.asarray(image))))
    raise ImageError(
        f"{reprlib.repr(image)} is no image: give a path, the bytes of an image file, a PIL image or an array uint8 "
        "[height, width, 3]"
    )


def _pixels(values: np.ndarray) -> np.ndarray:
    """An array that is an image: [height, width], or with 3 colours or 4."""
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if 0 in values.shape or (values.ndim != 2 and (values.ndim != 3 or values.shape[-1] not in (3, 4))):
        turned = "; give array.transpose(1, 2, 0)" if values.ndim == 3 and values.shape[0] in (3, 4) else ""
        raise ImageError(
            f"an array {list(values.shape)} is no image: must be [height, width, 3] or [height, width]{turned}"
        )
    if values.dtype != np.uint8:
        low, high = (values.min(), values.max()) if values.dtype.kind in "biuf" else (math.nan, math.nan)
        mend = "bring its values to 0 to 255, then give array.astype('uint8')"
        if low >= 0 and high <= 1:
            mend = "give (array * 255).round().astype('uint8')"
        elif low >= 0 and high <= 255:
            mend = "give array.round().astype('uint8')"
        raise ImageError(f"an array of {values.dtype}, {low} to {high}: must be uint8, 0 to 255; {mend}")
    return values
