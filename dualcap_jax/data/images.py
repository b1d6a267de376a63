"""From the bytes of a picture file to the square uint8 array that the encoder reads.

One convention for training, evaluation and captioning: the shorter side resized (PIL, antialiased, bilinear by default)
and a centre crop, as torchvision's `Resize(int)` and `CenterCrop` do it with a PIL image.
"""

import io
from typing import Literal

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dualcap_jax.errors import UserError

try:
    import simplejpeg
except ImportError:  # there is no wheel for every platform
    simplejpeg = None

# An image of more pixels than this (PIL's own limit) is taken for a decompression bomb.
MAX_PIXELS = 89_478_485
_ORIENTATION = 0x0112  # EXIF tag


Interpolation = Literal["bilinear", "bicubic"]
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


class ImageError(UserError):
    """The bytes are no picture that can be read, and why."""


def decode_image(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame) or whatever else PIL reads into an upright RGB picture.

    The EXIF orientation is honoured, transparency is laid on white, greyscale and 16 bits become 8-bit RGB.

    Args:
        data: the encoded picture.

    Returns:
        The picture in mode "RGB".

    Raises:
        ImageError: not a picture, truncated, broken, too large, or with pixels of no known range.
    """
    if not data:
        raise ImageError("the file is empty")
    try:
        image = Image.open(io.BytesIO(data))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(f"{width} x {height} pixels are more than the {MAX_PIXELS} allowed")
        upright = image.getexif().get(_ORIENTATION, 1) == 1
        if simplejpeg and image.format == "JPEG" and image.mode in ("RGB", "L") and upright:
            return _decode_jpeg(data) or image.convert("RGB")
        return upright_rgb(image)
    except ImageError:
        raise
    except Image.UnidentifiedImageError as error:
        raise ImageError("not a picture in any known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more pixels than the {MAX_PIXELS} allowed") from error
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        raise ImageError(f"broken picture ({error})") from error


def prepare_image(
    data: bytes, size: int, resize: int | None = None, interpolation: Interpolation | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Decode a picture, resize its shorter side and cut out the centre.

    Args:
        data: the encoded picture.
        size: side of the square to return, in pixels.
        resize: length of the shorter side before the crop, in pixels, at least `size`; None: `size`.
        interpolation: None: bilinear.

    Returns:
        RGB values 0..255.

    Raises:
        ImageError: as `decode_image`.
    """
    return crop_image(decode_image(data), size, resize, interpolation)


def crop_image(
    image: Image.Image, size: int, resize: int | None = None, interpolation: Interpolation | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """Resize the shorter side of an RGB picture and cut out the centre; arguments as `prepare_image`."""
    width, height = image.size
    shorter, longer = (resize or size), int((resize or size) * max(width, height) / min(width, height))
    new_width, new_height = (shorter, longer) if width <= height else (longer, shorter)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    # Resizing only what the crop keeps is a quarter less work for a 4:3 picture than cropping afterwards, and
    # gives the same but for the rounding: one or two percent of a photograph's values differ, by 1 of 255.
    scale_x, scale_y = width / new_width, height / new_height
    right, bottom = min((left + size) * scale_x, width), min((top + size) * scale_y, height)
    box = (left * scale_x, top * scale_y, right, bottom)
    if (width, height) == (new_width, new_height) == (size, size):
        return np.asarray(image)
    return np.asarray(image.resize((size, size), _FILTERS[interpolation or "bilinear"], box=box))


def random_crop(
    image: Image.Image, size: int, scale: float, rng: np.random.Generator, interpolation: Interpolation | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """A random part of an RGB picture, resized, as torchvision's `RandomResizedCrop` chooses it.

    Args:
        image: the picture.
        size: side of the square to return, in pixels.
        scale: smallest share of the picture's area that is kept.
        rng: chooses share, aspect (3:4 to 4:3) and place.
        interpolation: None: bilinear.
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
    box = (*start, *(start + part))
    return np.asarray(image.resize((size, size), _FILTERS[interpolation or "bilinear"], box=box))


def _decode_jpeg(data: bytes) -> Image.Image | None:
    """Decode as PIL does, to the bit, but faster; None where simplejpeg declines and PIL must decide."""
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
    except ValueError:
        return None


def upright_rgb(image: Image.Image) -> Image.Image:
    """A PIL image turned as its EXIF orientation says, on white where transparent, in mode "RGB" of 8 bits.

    Raises:
        ImageError: for floating-point pixels, which have no known range.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16-bit greyscale, some of it widened to 32 by PIL
        values = np.clip(np.asarray(image).astype(np.int64), 0, 65535)
        image = Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")
