"""What a captioner is given: images of every kind, what is none of them, and settings that there are not."""

import io
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner
from dualcap_jax.data.images import ImageError
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.pretrained.tables import PretrainedError

from .training.tiny import untrained_captioner

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return untrained_captioner("two red squares")


@pytest.fixture(scope="module")
def path(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("images") / "dog.png"
    Image.fromarray(IMAGE).save(path)
    return path


SHORT = {"max_length": 6, "num_beams": 1}


def caption(captioner: Captioner, images) -> list[str]:
    return [each.text for each in captioner(images, **SHORT)]


@pytest.mark.parametrize(
    "give",
    [
        str,
        lambda path: path,
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        Image.open,
        lambda path: IMAGE,
        lambda path: jnp.asarray(IMAGE),
        lambda path: np.dstack([IMAGE, np.full((40, 50), 255, np.uint8)]),
    ],
)
def test_one_image_alone_is_given_one_caption(captioner, path, give):
    expected = captioner.prepare(IMAGE)
    image = give(path)
    np.testing.assert_array_equal(captioner.prepare(image), expected)
    assert [captioner(image, **SHORT).text] == caption(captioner, [image]) == caption(captioner, [IMAGE])


def test_one_grey_array_is_one_image(captioner):
    grey = IMAGE[..., 0]
    for image in (grey, grey[..., None]):
        np.testing.assert_array_equal(captioner.prepare(image), captioner.prepare(np.dstack([grey] * 3)))
        assert [captioner(image, **SHORT).text] == caption(captioner, [image])


def test_several_images_are_any_iterable(captioner, path):
    for images in ([IMAGE] * 2, (path, path), np.stack([IMAGE, IMAGE]), np.array([str(path)] * 2), iter([path, IMAGE])):
        assert len(caption(captioner, images)) == 2
    assert caption(captioner, []) == []


def test_an_iterator_is_taken_a_batch_at_a_time(captioner):
    taken = []

    def images():
        for number in range(9):
            taken.append(number)
            yield IMAGE

    captions = captioner(images(), **SHORT, batch_size=4)
    assert taken == []
    first = next(captions)
    assert taken == [0, 1, 2, 3]
    assert [first, *captions] == captioner([IMAGE] * 9, **SHORT, batch_size=4)


def test_threads_caption_at_the_same_time_what_one_does_alone(captioner):
    rng = np.random.default_rng(1)
    images = [rng.integers(0, 256, (40, 40 + number, 3), np.uint8) for number in range(16)]
    settings = {"num_beams": 3, "max_length": 12, "prompt": "two", "explain": True}
    alone = [captioner(image, **settings) for image in images]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda image: captioner(image, **settings), images)) == alone


def test_a_captioner_is_published_as_it_is_saved(captioner, tmp_path, monkeypatch):
    """The hub itself is not there in tests: what it would be sent is kept."""
    sent = {}

    class Hub:
        def __init__(self, token):
            sent["token"] = token

        def create_repo(self, name, private, exist_ok):
            sent.update(name=name, private=private)

        def upload_folder(self, repo_id, folder_path, commit_message):
            shutil.copytree(folder_path, tmp_path / "hub")
            return f"https://huggingface.co/{repo_id}"

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert captioner.push_to_hub("me/captions", private=True, token="t") == "https://huggingface.co/me/captions"
    assert sent == {"token": "t", "name": "me/captions", "private": True}
    assert Captioner.from_pretrained(tmp_path / "hub")(IMAGE, **SHORT) == captioner(IMAGE, **SHORT)


def test_a_hub_that_cannot_be_reached_is_told(captioner):
    with pytest.raises(PretrainedError, match="not a name: can't be published: "):
        captioner.push_to_hub("not a name")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "None is no image: give a path, the bytes of an image file, a PIL image or an array uint8"),
        (3, "3 is no image"),
        ([None], "None is no image"),
        ([["dog.jpg"]], "['dog.jpg'] is no image"),
        ({"image": IMAGE}, "is no image"),
        (io.BytesIO(b"bytes"), "is no image: give a path, the bytes"),
        (b"", "the file is empty"),
        (IMAGE[:0], "an array [0, 50, 3] is no image"),
        (IMAGE[..., :2], "an array [40, 50, 2] is no image: must be [height, width, 3] or [height, width]"),
        ([IMAGE[0, 0]], "an array [3] is no image"),
        (np.array([["dog.jpg"]]), "an array of <U7"),
    ],
)
def test_what_is_no_image_is_refused(captioner, image, message):
    with pytest.raises(ImageError, match=re.escape(message)):
        captioner(image)


@pytest.mark.parametrize(
    "array",
    [
        IMAGE.astype(np.int32),
        IMAGE[..., 0].astype(np.int32),
        IMAGE.astype(np.uint16),
        IMAGE / 255,
        (IMAGE / 255).astype(np.float32),
        IMAGE > 100,
        IMAGE.transpose(2, 0, 1),
        IMAGE.astype(np.float16),
    ],
)
def test_an_array_of_another_kind_is_refused_with_a_mend_that_works(captioner, array):
    for give in (captioner, captioner.prepare, lambda array: captioner.explain(array, "two")):
        with pytest.raises(ImageError) as refused:
            give(array)
    mended = eval(re.search(r"; give (.*)$", str(refused.value))[1], {"array": array})
    assert captioner.prepare(mended).std() > 20  # neither black nor white


@pytest.mark.parametrize(
    "array", [IMAGE.astype(np.int32) * 200, IMAGE - 300.0, np.full((4, 4, 3), np.nan), IMAGE.astype(np.uint16) * 257]
)
def test_an_array_of_no_known_range_is_refused(captioner, array):
    with pytest.raises(
        ImageError, match=f"an array of {array.dtype}, .*: must be uint8, 0 to 255; bring its values to"
    ):
        captioner(array)


def test_a_path_that_cannot_be_read_is_named(captioner, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(ImageError, match=f"{tmp_path}/broken.png: not an image in any known format"):
        captioner([IMAGE, tmp_path / "broken.png"])
    with pytest.raises(FileNotFoundError, match="nowhere.png"):
        captioner(str(tmp_path / "nowhere.png"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beam": 3}, "DecodingConfig has no field num_beam; did you mean num_beams?"),
        (
            {"bad_words": "purple"},
            "decoding.bad_words='purple': must be a tuple, each of it text; did you mean ('purple',)?",
        ),
        ({"num_beams": 2.0}, "decoding.num_beams=2.0: must be a whole number; did you mean 2?"),
        ({"num_beams": None}, "decoding.num_beams=None: must be a whole number"),
    ],
)
def test_settings_of_the_search_are_checked(captioner, settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        captioner([IMAGE], **settings)


def test_words_may_be_a_list(captioner):
    banned = [captioner([IMAGE], max_length=6, num_beams=1, bad_words=kind(["red"]))[0] for kind in (list, tuple)]
    assert banned[0] == banned[1]


@pytest.mark.parametrize("checkpoint", ["last", "", None, ["best"]])
def test_a_checkpoint_is_best_or_latest(captioner, checkpoint, tmp_path):
    captioner.save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="checkpoint=.*: must be 'best' or 'latest'"):
        Captioner.load(tmp_path, checkpoint)


@pytest.mark.parametrize("text", [None, ["two red squares"], 3])
def test_what_is_no_caption_is_not_explained(captioner, text):
    with pytest.raises(UserError, match="is no caption: give its text"):
        captioner.explain(IMAGE, text)
