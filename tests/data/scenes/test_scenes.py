import io
from itertools import combinations
from random import Random

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.scenes.captions import parse_caption, write_captions
from dualcap_jax.data.scenes.drawing import draw_scene
from dualcap_jax.data.scenes.grading import accuracies, grade
from dualcap_jax.data.scenes.scene import ALL_GROUPS, COLOURS, COUNTS, HELD_OUT, SHAPES, Group, Scene, sample_scene
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer

SMALL = DataConfig(scenes=ScenesConfig(train=60, validation=20, test=40))
RIGHT = {"shape": True, "colour": True, "count": True, "relation": True}


@st.composite
def scenes(draw, least_groups=1):
    looks = st.tuples(st.sampled_from(COLOURS), st.sampled_from(SHAPES))
    chosen = draw(st.lists(looks, min_size=least_groups, max_size=4, unique=True))
    groups = tuple(Group(draw(st.sampled_from(COUNTS)), *look) for look in chosen)
    return Scene(groups, draw(st.sampled_from(("row", "column"))) if len(groups) > 1 else "single")


# -- the set


def test_a_record_depends_on_seed_split_and_index_alone():
    once, again = open_source(SMALL, "train"), open_source(SMALL, "train")
    larger = open_source(DataConfig(scenes=ScenesConfig(train=500)), "train")
    for index in (59, 3, 17):
        for other in (again, larger):
            assert once[index].captions == other[index].captions
            assert once[index].read_image() == other[index].read_image()
    reseeded = open_source(DataConfig(scenes=ScenesConfig(train=60, seed=1)), "train")
    assert [once[i].captions for i in range(9)] != [reseeded[i].captions for i in range(9)]
    validation = open_source(SMALL, "validation")
    assert [once[i].captions for i in range(9)] != [validation[i].captions for i in range(9)]


@pytest.mark.parametrize(("split", "size"), [("train", 60), ("validation", 20), ("test", 40)])
def test_splits_have_their_sizes_and_five_different_captions_each(split, size):
    source = open_source(SMALL, split)
    records = [source[i] for i in range(size)]
    assert len(source) == size
    assert [record.image_id for record in records] == list(range(size))
    assert source.caption_counts.tolist() == [len(set(record.captions)) for record in records] == [5] * size
    with pytest.raises(IndexError):
        source[size]
    with pytest.raises(DataError, match="no split 'dev'; they have train, validation, test"):
        open_source(SMALL, "dev")


def test_only_test_scenes_hold_the_combinations_held_out_and_each_does():
    config = DataConfig(scenes=ScenesConfig(train=400, validation=100, test=200))
    for split in ("train", "validation"):
        source = open_source(config, split)
        assert not any(group in HELD_OUT for i in range(len(source)) for group in source.scene(i).groups)
    source = open_source(config, "test")
    shown = [set(source.scene(i).groups) & set(HELD_OUT) for i in range(len(source))]
    assert all(shown)
    assert set.union(*shown) == set(HELD_OUT)


def test_training_still_shows_every_pair_of_count_colour_and_shape():
    familiar = set(ALL_GROUPS) - set(HELD_OUT)
    assert 0.08 < len(HELD_OUT) / len(ALL_GROUPS) <= 0.125
    for first, second in combinations(("count", "colour", "shape"), 2):
        pairs = [{(getattr(g, first), getattr(g, second)) for g in groups} for groups in (ALL_GROUPS, familiar)]
        assert pairs[0] == pairs[1]


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_scenes_have_up_to_the_configured_number_of_groups(most):
    drawn = [sample_scene(Random(i), most) for i in range(200)]
    assert {len(scene.groups) for scene in drawn} == set(range(1, most + 1))
    for scene in drawn:
        assert len({(group.colour, group.shape) for group in scene.groups}) == len(scene.groups)
        assert (scene.layout == "single") == (len(scene.groups) == 1)


# -- the images


@pytest.mark.parametrize("size", [32, 64, 65, 224])
def test_images_have_the_asked_for_size(size):
    image = Image.open(io.BytesIO(draw_scene(sample_scene(Random(1), 4), Random(2), size)))
    assert (image.size, image.mode) == ((size, size), "RGB")


def test_images_follow_the_size_that_the_model_reads_unless_set():
    for config, side in (
        (DataConfig(image_size=40), 40),
        (DataConfig(image_size=40, resize=50), 50),
        (DataConfig(image_size=40, scenes=ScenesConfig(picture_size=96)), 96),
    ):
        assert Image.open(io.BytesIO(open_source(config, "train")[0].read_image())).size == (side, side)


HUES = {
    "red": (220, 40, 40),
    "green": (40, 150, 60),
    "blue": (40, 90, 220),
    "yellow": (240, 200, 20),
    "purple": (150, 60, 190),
    "black": (25, 25, 25),
}


@settings(max_examples=60, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 1000))
def test_an_image_shows_each_shape_apart_in_its_colour_and_the_groups_in_order(scene, seed):
    pixels = np.asarray(Image.open(io.BytesIO(draw_scene(scene, Random(seed), 160)))).astype(int)
    inked = np.abs(pixels - pixels[0, 0]).max(-1) > 40
    assert not any(edge.any() for edge in (inked[0], inked[-1], inked[:, 0], inked[:, -1]))
    blobs, number = ndimage.label(inked)
    assert number == sum(group.count for group in scene.groups)

    seen = []  # (place along the row or column, colour) of each shape
    for blob in range(1, number + 1):
        places = np.argwhere(blobs == blob)
        colour = np.median(pixels[blobs == blob], axis=0)
        nearest = min(HUES, key=lambda name: np.abs(colour - HUES[name]).sum())
        seen.append((places.mean(0)[0 if scene.layout == "column" else 1], nearest))
    assert [colour for _, colour in sorted(seen)] == [g.colour for g in scene.groups for _ in range(g.count)]


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_differ_in_outline_even_when_small(shape):
    def outline(name):
        scene = Scene((Group(1, "black", name),), "single")
        pixels = Image.open(io.BytesIO(draw_scene(scene, Random(5), 40))).convert("L")
        return np.asarray(pixels).astype(int)

    for other in set(SHAPES) - {shape}:
        assert (np.abs(outline(shape) - outline(other)) > 100).sum() > 15, other


# -- the captions


@settings(max_examples=300, deadline=None)
@given(scene=scenes(), seed=st.integers(0, 10_000))
def test_every_caption_says_exactly_what_the_scene_shows(scene, seed):
    captions = write_captions(scene, Random(seed), 6)
    assert len(set(captions)) == 6
    for caption in captions:
        stated = parse_caption(caption)
        assert stated.groups == scene.groups, caption
        assert stated.layout == scene.layout, caption
        assert False not in grade(caption, scene).values(), caption
        assert parse_caption(caption.capitalize() + ".") == stated


def test_nothing_of_scenes_is_cut():
    config = DataConfig(scenes=ScenesConfig(train=2_000, test=400))
    tokenizer = train_tokenizer(iterate_captions(open_source(config, "train")), config.vocab_size)
    lengths = [
        len(tokenizer.encode(caption, 1_000))
        for split in ("train", "test")
        for caption in iterate_captions(open_source(config, split))
    ]
    assert max(lengths) <= config.max_length
    words = {word for caption in iterate_captions(open_source(config, "test")) for word in caption.split()}
    assert all(len(tokenizer.encode(word.strip(","), 99)) == 3 for word in words)


def test_a_perfect_describer_gets_a_high_bleu_and_a_careless_one_does_not():
    drawn = [sample_scene(Random(f"{i}"), 4, unseen=True) for i in range(300)]
    references = list(zip(*(write_captions(scene, Random(f"r{i}")) for i, scene in enumerate(drawn)), strict=True))
    perfect = [write_captions(scene, Random(f"h{i}"))[0] for i, scene in enumerate(drawn)]
    assert sacrebleu.corpus_bleu(perfect, references).score > 80
    strangers = [sample_scene(Random(f"s{i}"), 4) for i in range(300)]
    careless = [write_captions(scene, Random(i))[0] for i, scene in enumerate(strangers)]
    assert sacrebleu.corpus_bleu(careless, references).score < 40


# -- grading


def corrupt(scene, part, rng):
    """The scene with one word of one group changed, or two of its places swapped."""
    groups = list(scene.groups)
    if part == "relation":
        first, second = rng.sample(range(len(groups)), 2)
        groups[first], groups[second] = groups[second], groups[first]
    else:
        choices = {"shape": SHAPES, "colour": COLOURS, "count": COUNTS}[part]
        place = rng.randrange(len(groups))
        values = {name: getattr(groups[place], name) for name in ("count", "colour", "shape")}
        values[part] = rng.choice([value for value in choices if value != values[part]])
        groups[place] = Group(**values)
    return Scene(tuple(groups), scene.layout)


@pytest.mark.parametrize("part", ["shape", "colour", "count", "relation"])
@settings(max_examples=150, deadline=None)
@given(scene=scenes(least_groups=2), seed=st.integers(0, 10_000))
def test_one_corruption_fails_the_part_corrupted_and_no_other(part, scene, seed):
    rng = Random(seed)
    caption = write_captions(corrupt(scene, part, rng), rng)[0]
    assert grade(caption, scene) == RIGHT | {part: False}, caption


@settings(max_examples=100, deadline=None)
@given(scene=scenes(least_groups=2), seed=st.integers(0, 10_000))
def test_left_of_is_not_above(scene, seed):
    turned = Scene(scene.groups, "column" if scene.layout == "row" else "row")
    assert grade(write_captions(turned, Random(seed))[0], scene) == RIGHT | {"relation": False}


PAIR = Scene((Group(2, "red", "cross"), Group(1, "blue", "square")), "row")


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("two red crosses to the left of a blue square", RIGHT),
        ("One blue square to the right of two red crosses.", RIGHT),
        ("there is two red cross on the left and a blue squares on the right", RIGHT),
        ("two red crosses to the right of a blue square", RIGHT | {"relation": False}),
        ("two red crosses and a blue square", RIGHT | {"relation": False}),
        ("two red crosses", dict.fromkeys(RIGHT, False)),
        ("", dict.fromkeys(RIGHT, False)),
        ("two red crosses to the left of a blue square and a green triangle", dict.fromkeys(RIGHT, False)),
        ("two pink crosses to the left of a blue square", dict.fromkeys(RIGHT, False)),
    ],
)
def test_grades_of_captions_written_by_hand(caption, expected):
    assert grade(caption, PAIR) == expected


def test_a_single_group_has_no_relation_to_grade():
    scene = Scene((Group(3, "green", "triangle"),), "single")
    assert grade("only three green triangles", scene) == RIGHT | {"relation": None}
    assert grade("two green triangles", scene) == RIGHT | {"relation": None, "count": False}


@given(text=st.text(max_size=80))
def test_any_text_can_be_graded(text):
    assert set(grade(text, PAIR)) == set(RIGHT)


def test_accuracies_are_percentages_relation_over_scenes_that_have_one():
    single = Scene((Group(3, "green", "triangle"),), "single")
    captions = [
        "only three green triangles",
        "two red crosses to the right of a blue square",
        "two green triangles",
        "nothing",
    ]
    scores = accuracies(captions, [single, PAIR, single, PAIR])
    assert scores == {"shape": 75, "colour": 75, "count": 50, "relation": 0, "all": 25}
    assert "relation" not in accuracies(["a red ring"], [single])
