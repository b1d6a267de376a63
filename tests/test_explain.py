"""What a caption owes to its picture: Grad-CAM against others' and another route to it, words found, maps written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner
from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.explain.maps import grad_cam, overlay
from dualcap_jax.explain.words import WordError, find_word, word_spans
from dualcap_jax.models import variables

from .commands import run
from .models.torch_encoder import pictures as coarse_pictures
from .models.torch_encoder import twins
from .training.tiny import untrained_captioner

CAPTION = "two red squares, above a Ring"


@pytest.fixture(scope="module")
def captioner() -> Captioner:
    return untrained_captioner(CAPTION)


def picture(seed=0) -> np.ndarray:
    return ((coarse_pictures(1, 48, np.random.default_rng(seed))[0] + 1.1) * 115).astype(np.uint8)


@pytest.mark.parametrize(("block", "stride"), [(2, 4), (4, 8), (10, 16)])
def test_grad_cam_is_that_of_torchcam(block, stride, rng):
    torch = pytest.importorskip("torch")
    from torchcam import methods

    twin, ours = twins("b0", 96)
    x = coarse_pictures(1, 96, rng)
    with methods.GradCAM(twin, target_layer=f"_blocks.{block}") as extractor:
        scores = twin(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
        theirs = extractor(7, scores, normalized=False)[0][0].numpy()
    features = jax.jit(lambda x: ours.maps(x)[stride])(x)[0]
    places = jax.jit(
        lambda f: grad_cam(lambda f: ours.vector_of(ours.deeper_maps({stride: f[None]}, stride))[0, 7], f)
    )(features)
    assert theirs.shape == places.shape == (96 // stride, 96 // stride)
    assert 0 < theirs.max() > 2 * theirs.min()
    np.testing.assert_allclose(places, theirs, atol=1e-3 * theirs.max())


@pytest.mark.parametrize(("word", "stride"), [("squares", 32), ("ring", 8), (1, 16), ("two", None)])
def test_a_words_map_is_weighed_by_how_each_channel_moves_its_log_probability(captioner, word, stride):
    image, place = picture(), find_word(CAPTION, word)[0]
    expected_stride = stride or 4  # 48 pixels: 12 x 12 places, where the next has 6 x 6
    network = variables.bind(captioner.config.model, captioner.model)
    ids = captioner.tokenizer.encode(CAPTION, 99)
    tokens = np.array(ids)[None, None]
    starts = [i for i, piece in enumerate(captioner.tokenizer.pieces(ids)) if piece.startswith(" ")]
    span = slice(starts[place], [*starts, len(ids) - 2][place + 1])

    @jax.jit
    @jax.value_and_grad
    def log_prob(shift, features):
        vector = network.encoder.vector_of(
            network.encoder.deeper_maps({expected_stride: features + shift}, expected_stride)
        )
        logits = network.logits(vector, tokens[..., :-1], tokens[..., 1:] >= 0)
        return sum(jax.nn.log_softmax(logits[0, 0, i])[ids[i + 1]] for i in range(span.start, span.stop))

    features = jax.jit(lambda x: network.encoder.maps(x)[expected_stride])(image[None])
    value, slopes = log_prob(jnp.zeros(features.shape[-1]), features)
    assert captioner.explain(image, CAPTION)[place].log_prob == pytest.approx(float(value), abs=1e-4)
    small = np.maximum(np.asarray(features[0]) @ np.asarray(slopes), 0)
    assert small.max() > 0
    expected = np.asarray(Image.fromarray(small / small.max()).resize((48, 48), Image.Resampling.BILINEAR))
    found = captioner.grad_cam(image, CAPTION, word, stride=stride)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert 0 <= found.min() <= found.max() <= 1


def test_any_caption_is_explained_as_the_networks_own(captioner):
    images = [picture(seed) for seed in range(2)]
    length = len(captioner.tokenizer.encode(CAPTION, 99)) + 2
    captions = captioner(images, prompt=CAPTION, explain=True, max_length=length, num_beams=1)
    for image, caption in zip(images, captions, strict=True):
        words = captioner.explain(image, CAPTION)
        assert [word.text for word in words] == CAPTION.split()
        for word, own in zip(words[:-1], caption.words, strict=False):  # what was generated may go on with the last
            assert word.text == own.text
            assert word.log_prob == pytest.approx(own.log_prob, abs=1e-4)
            assert word.seen == pytest.approx(own.seen, abs=1e-4)
    assert captioner.explain(images[1], "  two   red\nsquares,  above a Ring ") == words


def test_words_are_found_whatever_their_case_and_punctuation(captioner):
    assert find_word("A dog, a cat and a Dog.", "dog") == [1, 6]
    assert find_word("A dog, a cat", "a") == [0, 2]
    assert find_word("A dog, a cat", 3) == [3]
    assert find_word("the dog's ball", "dog's") == [1]
    for word in ("do", "dogs", "dog cat", ""):
        with pytest.raises(WordError, match="has no word"):
            find_word("a dog", word)
    with pytest.raises(WordError, match="no word 6: it has 6, counted from 0"):
        captioner.grad_cam(picture(), CAPTION, 6)
    with pytest.raises(ValueError, match="stride=5: must be one of 2, 4, 8, 16, 32"):
        captioner.grad_cam(picture(), CAPTION, "red", stride=5)
    with pytest.raises(ValueError, match="max_positions is 64"):
        captioner.explain(picture(), "red " * 80)


def test_an_overlay_is_the_picture_tinted_where_the_map_is(captioner):
    heatmap = np.zeros((48, 48), np.float32)
    heatmap[:24] = 1
    image = np.asarray(overlay(np.full((48, 48, 3), 128, np.uint8), heatmap)).astype(int)
    assert image.shape == (288, 288, 3)
    assert (image[:120, :, 0] > image[:120, :, 2] + 30).all()
    assert (image[170:, :, 2] > image[170:, :, 0] + 30).all()
    assert overlay(np.zeros((300, 300, 3), np.uint8), np.zeros((300, 300), np.float32)).size == (300, 300)


@pytest.mark.slow
def test_a_trained_network_sees_colours_rather_than_small_words(tmp_path):
    sizes = "--data.scenes.max-groups 1 --data.scenes.train 1000 --data.scenes.validation 8 --data.scenes.test 4"
    network = (
        "--model.encoder.width 0.25 --model.encoder.depth 0.2 --model.encoder.num-classes 32 --model.language.width 32 "
        "--model.language.layers 1 --model.language.heads 2 --model.merger.hidden 32 32 --data.image-size 32"
    )
    steps = (
        "--training.steps 200 --training.batch-size 32 --training.learning-rate 0.005 --training.warmup-steps 20 "
        "--training.validate-every 200 --training.checkpoint-every 200 --decoding.num-beams 1"
    )
    run("train", "--workdir", tmp_path / "run", *sizes.split(), *network.split(), *steps.split())
    captioner = Captioner.load(tmp_path / "run")
    source = ScenesSource(DataConfig(scenes=ScenesConfig(validation=40, max_groups=1, picture_size=32)), "validation")
    seen, small, blanked, mirrored = [], [], [], []
    for index in range(len(source)):
        image, group = captioner.prepare(source[index].read_image()), source.scene(index).groups[0]
        caption = f"a picture of {('a', 'two', 'three', 'four')[group.count - 1]} {group.colour}"
        *others, colour = captioner.explain(image, caption)
        seen.append(colour.seen)
        small += [abs(word.seen) for word in others[:3]]
        blank = np.broadcast_to(image[0, 0], image.shape)
        blanked.append(captioner.explain(blank, caption)[-1].log_prob - colour.log_prob)
        mirrored.append(captioner.explain(image[:, ::-1], caption)[-1].log_prob - colour.log_prob)
    assert np.mean(seen) > np.mean(small) + 0.5
    assert np.mean(blanked) < np.mean(mirrored) - 1


def test_space_belongs_to_the_word_before_it():
    assert word_spans(["yellow", " ", " ", " do", "g", " "]) == [slice(0, 3), slice(3, 6)]
    assert word_spans([" ", " a", " dog"]) == [slice(0, 2), slice(2, 3)]
    assert word_spans([" ", " "]) == [slice(0, 2)]
    assert word_spans([]) == []
