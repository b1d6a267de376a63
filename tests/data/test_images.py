"""Images made with PIL, read back through the public functions."""

import io
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualcap_jax.data import images
from dualcap_jax.data.images import ImageError, ImageWarning, decode_image, full_size
from dualcap_jax.data.reading import MAX_PIXELS, ImagesConfig
from dualcap_jax.data.transform import ImageTransform

from .drawn import encode, noise, photograph


@pytest.mark.parametrize("options", [{"quality": 90}, {"subsampling": 0}, {"progressive": True}, {"quality": 20}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpegs_decode_to_the_bit_as_pil_decodes_them(mode, options):
    data = encode(photograph(203, 155, mode), "JPEG", **options)
    expected = Image.open(io.BytesIO(data)).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode_image(data)), np.asarray(expected))


def test_a_cmyk_jpeg_comes_out_in_rgb():
    data = encode(Image.new("CMYK", (20, 10), (0, 255, 255, 0)), "JPEG", quality=95)
    image = decode_image(data)
    assert image.mode == "RGB"
    red, green, blue = image.getpixel((5, 5))
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_honoured(orientation, image_format):
    upright = Image.new("RGB", (64, 32), "white")
    upright.paste("red", (0, 0, 16, 16))  # marks the top left corner
    undo = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # PIL's Transpose that stores it in each orientation
    stored = upright.transpose(Image.Transpose(undo[orientation])) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    shown = decode_image(encode(stored, image_format, exif=exif))
    assert shown.size == (64, 32)
    red = np.asarray(shown).astype(int)
    assert red[2:14, 2:14, 1].max() < 60
    assert red[20:, 20:, 1].min() > 200


@pytest.mark.parametrize("image_format", ["PNG", "WEBP"])
def test_transparency_is_laid_on_white(image_format):
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    image.paste((0, 0, 0, 128), (0, 0, 1, 8))
    shown = np.asarray(decode_image(encode(image, image_format, lossless=True)))
    np.testing.assert_array_equal(shown[:, 6], np.full((8, 3), 255))
    np.testing.assert_array_equal(shown[:, 2], np.tile([0, 0, 255], (8, 1)))
    assert np.abs(shown[:, 0].astype(int) - 127).max() <= 1


def test_transparency_of_palettes_and_of_single_colours_is_laid_on_white_too():
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 1)
    for image_format in ("PNG", "GIF"):
        shown = np.asarray(decode_image(encode(palette, image_format, transparency=0)))
        assert shown[3, 3].tolist() == [255, 255, 255], image_format
        assert shown[0, 0].tolist() == [200, 0, 0], image_format
    shown = np.asarray(decode_image(encode(Image.new("RGB", (4, 4), (9, 9, 9)), transparency=(9, 9, 9))))
    assert shown.min() == 255
    grey = np.asarray(decode_image(encode(Image.new("LA", (4, 4), (7, 0)))))
    assert grey.min() == 255


def test_sixteen_bits_are_scaled_to_eight():
    values = np.array([[0, 128, 257, 32896, 65535, 65406]], np.uint16)
    shown = np.asarray(decode_image(encode(Image.fromarray(values))))
    np.testing.assert_array_equal(shown[0, :, 0], [0, 0, 1, 128, 255, 254])
    np.testing.assert_array_equal(shown[..., 0], shown[..., 2])
    tiff = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF")))
    np.testing.assert_array_equal(tiff, shown)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_greyscale_black_and_white_and_palettes_become_rgb(mode):
    image = ImageTransform(16, 16).decode(encode(photograph(40, 30).convert(mode)))
    assert image.shape == (16, 16, 3)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(image_format):
    frames = [Image.new("RGB", (10, 10), colour) for colour in ("red", "blue", "green")]
    data = encode(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)
    red, green, blue = decode_image(data).getpixel((5, 5))
    assert red > 200
    assert max(green, blue) < 50


def test_a_wrong_extension_does_not_matter_and_one_pixel_is_an_image(tmp_path):
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encode(Image.new("RGB", (1, 1), (1, 2, 3))))
    np.testing.assert_array_equal(ImageTransform(5, 5).decode(path.read_bytes()), np.tile([1, 2, 3], (5, 5, 1)))


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "not an image in any known format"),
        (encode(noise(64, 64), "JPEG")[:-500], "broken image .*truncated"),
        (encode(noise(64, 64), "JPEG")[:30], "not an image|broken image"),
        (encode(noise(64, 64))[:-500], "broken image"),
        (encode(noise(64, 64), "WEBP")[:-500], "not an image|broken image"),
        (encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF"), "floating-point pixels"),
        (encode(Image.new("1", (9460, 9460))), f"9460 x 9460 pixels are more than the {MAX_PIXELS} allowed"),
        (encode(Image.new("1", (20_000, 9_000))), f"more pixels than the {MAX_PIXELS} allowed"),
    ],
    ids=["empty", "html", "jpeg cut", "jpeg header", "png cut", "webp cut", "float", "large", "bomb"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_read_is_told_in_a_sentence(data, sentence):
    with pytest.raises(ImageError, match=sentence):
        decode_image(data)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damage_anywhere_in_a_file_gives_an_image_or_an_image_error(data):
    name = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]))
    content = bytearray(encode(noise(24, 16), name))
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert ImageTransform(8, 8).decode(bytes(content)).shape == (8, 8, 3)
    except ImageError as error:
        assert str(error)  # noqa: PT017


# -- pixels decide, not metadata

TEXT = zlib.compress(b"parameters " * 200_000)  # 2 MB of text, as programs that make images leave it


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png, kind, data):
    """A PNG with a chunk before its pixels."""
    return png[:33] + chunk(kind, data) + png[33:]


PNG = encode(photograph(60, 40))
JPEG = encode(photograph(60, 40), "JPEG")


@pytest.mark.parametrize(
    ("sound", "odd"),
    {
        "text": (PNG, with_chunk(PNG, b"zTXt", b"parameters\0\0" + TEXT)),
        "much text": (PNG, with_chunk(PNG, b"tEXt", b"parameters\0" + b"x" * 70_000_000)),
        "international text": (PNG, with_chunk(PNG, b"iTXt", b"parameters\0\1\0\0\0" + TEXT)),
        "profile": (PNG, with_chunk(PNG, b"iCCP", b"profile\0\0" + TEXT)),
        "EXIF of a PNG": (PNG, with_chunk(PNG, b"eXIf", b"no EXIF!")),
        "EXIF that is short": (PNG, with_chunk(PNG, b"eXIf", b"MM")),
        "checksum": (PNG, PNG[:33] + chunk(b"tEXt", b"a\0b")[:-1] + b"\xff" + PNG[33:]),
        "JFIF": (JPEG, b"\xff\xd8\xff\xe0\0\6JFIF" + JPEG[2:]),
        "EXIF of a JPEG": (JPEG, JPEG[:2] + b"\xff\xe1\0\x0eExif\0\0no EXIF"[:16] + JPEG[2:]),
    }.values(),
)
def test_odd_metadata_is_passed_over(sound, odd):
    np.testing.assert_array_equal(np.asarray(decode_image(odd)), np.asarray(decode_image(sound)))


def test_the_orientation_survives_metadata_that_is_passed_over():
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = encode(photograph(60, 40), exif=exif)
    np.testing.assert_array_equal(
        np.asarray(decode_image(with_chunk(turned, b"iCCP", b"profile\0\0" + TEXT))), np.asarray(decode_image(turned))
    )


def sixteen_bits(values):
    """A PNG of 16-bit grey or colour."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2 if values.ndim == 3 else 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_fewer_bits_in_sixteen_are_as_bright_as_eight_and_told(bits, mode):
    shown = np.asarray(noise(30, 20, mode)).copy()
    shown[0, 0] = 255
    data = sixteen_bits(np.round(shown * ((2**bits - 1) / 255)).astype(np.uint16))
    if bits < 16:
        with pytest.warns(
            ImageWarning, match=rf"image 'scan.png': its 16-bit values reach only {2**bits - 1}: read as"
        ):
            found = np.asarray(decode_image(data, name="scan.png"))
    else:
        found = np.asarray(decode_image(data))
    found = found[..., 0] if mode == "L" else found
    assert np.abs(found.astype(int) - shown).max() <= 1
    assert not np.asarray(decode_image(sixteen_bits(np.zeros((4, 4), np.uint16)))).any()


def test_pillows_warnings_name_the_image_in_every_thread():
    """In a process of its own, as pytest keeps warnings to itself."""
    exif = Image.Exif()
    exif[0x010F] = "A maker whose name is long"
    broken = exif.tobytes()[:-20]
    data = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(broken) + 2) + broken + JPEG[2:]
    program = f"""
from concurrent.futures import ThreadPoolExecutor
from dualcap_jax.data.images import decode_image
with ThreadPoolExecutor(4) as pool:
    list(pool.map(lambda name: decode_image({data!r}, None, name), ["a.jpg", "b.jpg", "c.jpg", "a.jpg"]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = sorted(done.stderr.splitlines())
    assert [line.split(": ")[:2] for line in lines] == [["warning", f"image '{name}.jpg'"] for name in "abc"]


# -- what lacks its end, and what is large


def tried(message, data):
    """Decode with the option that a message names."""
    name, value = re.search(r"--data\.(\S+) (\S+)", message).groups()
    value = int(value) if value.isdigit() else value
    return decode_image(data, ImagesConfig(**{name.replace("-", "_"): value}))


@pytest.mark.parametrize(
    ("image_format", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("MPO", {}), ("PNG", {}), ("GIF", {}), ("BMP", {}), ("TIFF", {})],
)
def test_what_is_there_of_a_file_without_its_end_is_read_if_asked_for(image_format, options):
    whole = encode(photograph(160, 120), image_format, **options)
    cut = whole[: len(whole) * 3 // 4]
    with pytest.raises(ImageError, match="truncated") as refused:
        decode_image(cut)
    found, expected = (np.asarray(image).astype(int) for image in (tried(str(refused.value), cut), decode_image(whole)))
    assert found.shape == expected.shape
    assert (np.abs(found - expected).mean((1, 2)) < 16).mean() >= 0.5  # of the rows; a BMP begins with the last
    both = [decode_image(whole, ImagesConfig(truncated=kind)) for kind in ("refuse", "accept")]
    np.testing.assert_array_equal(*map(np.asarray, both))


@pytest.mark.parametrize("data", [JPEG[:30], PNG[:40], b"\xff\xd8\xff", b"no image"])
def test_what_has_no_pixels_at_all_is_refused_even_so(data):
    with pytest.raises(ImageError):
        decode_image(data, ImagesConfig(truncated="accept"))


@pytest.mark.parametrize("sides", [(9460, 9460), (20_000, 9_000)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_message_names_the_option_that_reads_a_large_image(sides, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
    data = encode(Image.new("1", sides))
    with pytest.raises(ImageError) as refused:
        decode_image(data)
    assert tried(str(refused.value), data).size == sides


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize(("limit", "divisor"), [(48_000, 1), (47_999, 2), (12_000, 2), (11_999, 4), (100, 8)])
def test_a_large_jpeg_is_decoded_at_a_reduced_scale(monkeypatch, orientation, limit, divisor):
    monkeypatch.setattr(images, "MAX_PIXELS", limit)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photograph(240, 200), "JPEG", exif=exif)
    found = decode_image(data, ImagesConfig(max_pixels=48_000))
    sides = (240, 200) if orientation == 1 else (200, 240)
    assert full_size(found) == sides
    assert found.size == (sides[0] // divisor, sides[1] // divisor)
    monkeypatch.undo()
    expected = decode_image(data).reduce(divisor)
    assert np.abs(np.asarray(found).astype(int) - np.asarray(expected)).mean() < 4
