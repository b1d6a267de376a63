import dataclasses

import pytest

from dualcap_jax.data.config import DataConfig, ScenesConfig


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("image_size", 0, "at least 1"),
        ("resize", 63, "crop larger than the image: must be at least data.image_size=64"),
        ("max_length", 2, "at least 3"),
        ("captions_per_image", 0, "at least 1"),
        ("vocab_size", 256, "at least 257"),
        ("on_error", "ignore", "'raise' or 'skip'"),
        ("validation_fraction", 1.0, "less than 1"),
        ("validation_fraction", float("nan"), "less than 1"),
        ("read_threads", -1, "at least 0"),
        ("workers", -1, "at least 0"),
    ],
)
def test_an_impossible_value_names_field_value_and_range(field, value, accepted):
    with pytest.raises(ValueError, match=f"^data.{field}={value!r}: .*") as error:
        dataclasses.replace(DataConfig(), **{field: value})
    assert accepted in str(error.value)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("train", 0, "at least 1"),
        ("validation", 0, "at least 1"),
        ("test", -1, "at least 1"),
        ("max_groups", 5, "1 to 4"),
        ("picture_size", 8, "at least 16"),
    ],
)
def test_an_impossible_scenes_value_names_field_value_and_range(field, value, accepted):
    with pytest.raises(ValueError, match=f"^data.scenes.{field}={value!r}: .*") as error:
        ScenesConfig(**{field: value})
    assert accepted in str(error.value)
