"""Images made with PIL, read back through the public functions."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dualcap_jax.data.images import MAX_PIXELS, ImageError, decode_image
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
