"""Decoding: from the bytes of an image file to an upright RGB image."""

import io

import numpy as np
from PIL import Image, ImageOps

from dualcap_jax.errors import UserError

try:
    import simplejpeg
except ImportError:  # there is no wheel for every platform
    simplejpeg = None

# An image of more pixels than this (PIL's own limit) is taken for a decompression bomb.
MAX_PIXELS = 89_478_485
_ORIENTATION = 0x0112  # EXIF tag


class ImageError(UserError):
    """The bytes are no image that can be read, and why."""


def decode_image(data: bytes) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame) or whatever else PIL reads into an upright RGB image.

    The EXIF orientation is honoured, transparency is laid on white, greyscale and 16 bits become 8-bit RGB.

    Args:
        data: the encoded image.

    Returns:
        The image in mode "RGB".

    Raises:
        ImageError: not an image, truncated, broken, too large, or with pixels of no known range.
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
        raise ImageError("not an image in any known format") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"more pixels than the {MAX_PIXELS} allowed") from error
    except Exception as error:  # broken files make PIL's decoders raise nearly anything
        raise ImageError(f"broken image ({error})") from error


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
