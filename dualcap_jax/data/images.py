"""Decoding: from the bytes of an image file to an upright RGB image."""

import io
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from dualcap_jax.data.reading import MAX_PIXELS, ImagesConfig
from dualcap_jax.errors import DataWarning, UserError

try:
    import simplejpeg
except ImportError:  # there is no wheel for every platform
    simplejpeg = None

_ORIENTATION = 0x0112  # EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPPED = {"RGB;16B": "RGB;16L", "RGB;16L": "RGB;16B", "RGB;16N": "RGB;16B"}
"""Of two bytes a value PIL keeps the first; what makes it keep the second."""
_PNG, _JPEG, _END_OF_JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8", b"\xff\xd9"
_HEIC = (b"heic", b"heix", b"heim", b"hevc", b"hevx", b"mif1", b"msf1")


class ImageError(UserError):
    """The bytes are no image that can be read, and why."""


class ImageWarning(DataWarning):
    """An image is read, but something about it is odd."""


def decode_image(data: bytes, settings: ImagesConfig | None = None, name: str = "") -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF (first frame) or whatever else PIL reads into an upright RGB image.

    The EXIF orientation is honoured, transparency is laid on white, greyscale and 16 bits become 8-bit RGB. Broken
    metadata is passed over: the pixels decide.

    Args:
        data: the encoded image.
        settings: which images are read; None: whole ones of at most `MAX_PIXELS`.
        name: of the image, for warnings.

    Returns:
        The image in mode "RGB". One that was decoded at a reduced scale has its whole size in `full_size`.

    Raises:
        ImageError: not an image, truncated, broken, too large, or with pixels of no known range.
    """
    settings = settings or ImagesConfig()
    if not data:
        raise ImageError("the file is empty")
    with _warnings_named(name):
        try:
            return _decode(data, settings)
        except Exception as error:  # broken files make PIL's decoders raise nearly anything
            told = error if isinstance(error, ImageError) else _explained(error, data, settings)
            if isinstance(error, ImageError) or (pixels := _without_metadata(data)) is None:
                raise told from error
            try:
                return _decode(pixels, settings)
            except ImageError:  # it says more
                raise
            except Exception:
                raise told from error


def full_size(image: Image.Image) -> tuple[int, int]:
    """Width and height of a decoded image before any reduction."""
    return image.info.get("full_size", image.size)


def _explained(error: Exception, data: bytes, settings: ImagesConfig) -> ImageError:
    if isinstance(error, Image.DecompressionBombError):
        found = re.search(r"\d+", str(error))
        return _too_large("more pixels", int(found[0]) if found else 0, settings)
    if isinstance(error, Image.UnidentifiedImageError):
        if data[4:8] == b"ftyp" and data[8:12] in _HEIC:
            return ImageError("a HEIC image, which is not read: save it as JPEG or PNG")
        return ImageError("not an image in any known format")
    return ImageError(f"broken image ({error})")


def _too_large(what: str, pixels: int, settings: ImagesConfig) -> ImageError:
    return ImageError(f"{what} than the {settings.max_pixels} allowed; read it with --data.max-pixels {pixels}")


def _decode(data: bytes, settings: ImagesConfig) -> Image.Image:
    """Decode bytes.

    Raises:
        ImageError: for what `settings` do not accept.
        Exception: for what is broken.
    """
    if Image.MAX_IMAGE_PIXELS is not None and settings.max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = settings.max_pixels  # for good: taking it back would disturb other threads
    image: Any = Image.open(io.BytesIO(data))
    width, height = size = image.size
    if width * height > settings.max_pixels:
        raise _too_large(f"{width} x {height} pixels are more", width * height, settings)
    raw_mode, turn = _raw_mode(image), _turn(image)  # in this order: EXIF of a PNG is had by decoding all of it
    is_jpeg, is_large = image.format in ("JPEG", "MPO"), width * height > MAX_PIXELS
    is_plain = image.format == "JPEG" and image.mode in ("RGB", "L") and not turn and not is_large
    if simplejpeg and is_plain and (fast := _decode_jpeg(data)):
        return fast
    if is_jpeg and is_large:
        _reduce(image)
    try:
        image.load()
    except OSError as error:
        if "truncated" not in str(error):
            raise
        if settings.truncated == "refuse":
            raise ImageError(f"broken image ({error}); read what is there of it with --data.truncated accept") from None
        if is_jpeg:  # its decoder fills up what it lacks, once it has an end
            image = Image.open(io.BytesIO(data + _END_OF_JPEG))
            if is_large:
                _reduce(image)
        else:
            image.tile = []  # what was decoded is in the image already
    decoded = _with_second_byte(image, raw_mode, data) if raw_mode in _SWAPPED else image
    upright = upright_rgb(decoded, turn)
    if image.size != size:
        sideways = upright.size == image.size[::-1] and turn in (5, 6, 7, 8)
        upright.info["full_size"] = size[::-1] if sideways else size
    return upright


def _decode_jpeg(data: bytes) -> Image.Image | None:
    """Decode as PIL does, to the bit, but faster; None where simplejpeg declines and PIL must decide."""
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, colorspace="RGB"))
    except ValueError:
        return None


def _reduce(image: Image.Image) -> None:
    """Have a JPEG decoded at the largest of its reduced scales that has at most `MAX_PIXELS`."""
    width, height = image.size
    divisor = next((n for n in (2, 4) if width * height <= MAX_PIXELS * n * n), 8)
    image.draft(None, (max(width // divisor, 1), max(height // divisor, 1)))


def _raw_mode(image: Image.Image) -> str:
    """How the pixels lie in the file, before they are decoded."""
    tiles: Any = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    return str(args[0]) if isinstance(args, tuple) and args else str(args)


def _with_second_byte(image: Image.Image, raw_mode: str, data: bytes) -> Image.Image:
    """Colours of 16 bits, of which PIL keeps the first 8, out of all 16 where the first are dark."""
    if image.mode != "RGB" or np.asarray(image).max() >= 64:
        return image
    second = Image.open(io.BytesIO(data))
    second.tile = [_with_mode(tile, _SWAPPED[raw_mode]) for tile in second.tile]
    values = np.asarray(image).astype(np.int64) * 256 + np.asarray(second)
    return Image.fromarray(_eight_bits(values))


def _with_mode(tile: Any, mode: str) -> Any:
    args = (mode, *tile.args[1:]) if isinstance(tile.args, tuple) else mode
    return tile._replace(args=args)


def _turn(image: Image.Image) -> int:
    """The EXIF orientation, 0 where it says nothing that is known."""
    try:
        orientation = image.getexif().get(_ORIENTATION, 0)
    except Exception:  # its metadata is no reason to refuse an image
        return 0
    return orientation if orientation in _TURNS else 0


def upright_rgb(image: Image.Image, turn: int | None = None) -> Image.Image:
    """A PIL image turned as its EXIF orientation says, on white where transparent, in mode "RGB" of 8 bits.

    Args:
        image: of any mode.
        turn: its orientation, where it is known.

    Raises:
        ImageError: for floating-point pixels, which have no known range.
    """
    turn = _turn(image) if turn is None else turn
    if turn:
        image = image.transpose(_TURNS[turn])
    if image.mode == "F":
        raise ImageError("floating-point pixels have no known range")
    if image.mode.startswith("I"):  # 16-bit greyscale, some of it widened to 32 by PIL
        image = Image.fromarray(_eight_bits(np.asarray(image).astype(np.int64)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(values: Integer[np.ndarray, "*shape"]) -> UInt8[np.ndarray, "*shape"]:
    """Scale values of 16 bits to 8; cameras and scanners leave 10, 12 or 14 bits in 16, which would be nearly black."""
    values = np.clip(values, 0, 65535)
    largest = int(values.max())
    bits = next((bits for bits in (8, 10, 12, 14) if 0 < largest < 2**bits), 16)
    if bits < 16:
        _warn(f"its 16-bit values reach only {largest}: read as {bits} bits")
    top = 2**bits - 1
    return ((values * 255 + top // 2) // top).astype(np.uint8)


def _without_metadata(data: bytes) -> bytes | None:
    """A PNG or a JPEG without what does not decide over its pixels; None for other files."""
    if data.startswith(_PNG):
        kept, place = [_PNG], len(_PNG)
        while place < len(data):
            end = place + 12 + int.from_bytes(data[place : place + 4])
            kind = data[place + 4 : place + 8]
            if kind[:1].isupper() or kind in (b"tRNS", b"eXIf"):  # a capital: critical
                kept.append(data[place:end])
            place = end
        return b"".join(kept)
    if data.startswith(_JPEG):
        kept, place = [_JPEG], len(_JPEG)
        while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] not in (b"\xda", b""):
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4])
            marker = data[place + 1]
            if not (0xE0 <= marker <= 0xEF or marker == 0xFE) or marker in (0xE1, 0xEE):  # EXIF, Adobe's colours
                kept.append(data[place:end])
            place = end
        return b"".join((*kept, data[place:]))
    return None


# Pillow's warnings. `warnings.catch_warnings` is not for threads, so one hook listens for all of them.


class _Listening(threading.local):
    heard: list[str] | None = None
    """What was warned of in this thread; None: nobody listens."""


_listening = _Listening()
_show = warnings.showwarning


def _hear(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    if _listening.heard is not None:
        if not issubclass(category, Image.DecompressionBombWarning):  # `max_pixels` decides
            _listening.heard.append(str(message))
    elif issubclass(category, DataWarning):
        sys.stderr.write(f"warning: {message}\n")  # at once: other threads write too
    else:
        _show(message, category, *where, **more)


def name_warnings() -> None:
    """Have Pillow's warnings name the image that they are about."""
    warnings.showwarning = _hear
    warnings.filterwarnings("always", module=r"PIL\.", append=True)  # of each image anew


name_warnings()


def _warn(message: str) -> None:
    if _listening.heard is not None:
        _listening.heard.append(message)
    else:
        warnings.warn(message, ImageWarning, stacklevel=2)


@contextmanager
def _warnings_named(name: str) -> Iterator[None]:
    heard: list[str] = []
    _listening.heard = heard
    try:
        yield
    finally:
        _listening.heard = None
        for message in dict.fromkeys(heard):
            warnings.warn(f"image '{name}': {message}" if name else message, ImageWarning, stacklevel=3)
