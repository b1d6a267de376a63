"""A captioner whose encoder is a detector: pooled levels, levels as maps, and detections, each trained and used."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dualcap_jax import Captioner, ExperimentConfig
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.explain.maps import attention_map
from dualcap_jax.exporting.onnx import export_onnx
from dualcap_jax.models import variables
from dualcap_jax.models.encoders import DETECTIONS, EfficientDetConfig
from dualcap_jax.training.config import TrainingConfig

from .training.test_step import PLAIN, begin
from .training.tiny import random_batch, tiny_model

LEVELS = {"channels": 8, "cells": 1, "repeats": 1, "coarsest": 5, "drop_connect": 0.0}
WAYS = {
    "vector": ({"num_classes": 0}, {"kind": "skip_mlp"}),
    "maps": ({"num_classes": 0}, {"kind": "attention", "strides": (8, 16), "heads": 2, "grid": 4}),
    "detections": ({"num_classes": 4, "detections": 3}, {"kind": "attention", "strides": (0,), "heads": 2}),
}


def model_of(way: str, **settings):
    encoder, merger = WAYS[way]
    config = EfficientDetConfig("lite0", 0.25, 0.2, **{**LEVELS, **encoder, **settings})
    return replace(tiny_model(), encoder=config, merger=tiny_model(**merger).merger)


def captioner_of(way: str, caption: str) -> Captioner:
    tokenizer = train_tokenizer([caption], 270)
    model = model_of(way)
    model = replace(model, language=replace(model.language, vocab_size=tokenizer.vocab_size, max_positions=32))
    config = ExperimentConfig(model=model, data=DataConfig(image_size=32))
    return Captioner(config, variables.init(config.model, 0), tokenizer, 0)


@pytest.mark.parametrize("way", WAYS)
def test_each_way_trains_all_that_it_reads(way):
    model = model_of(way)
    state, step = begin(model, TrainingConfig(**{**PLAIN, "batch_size": 4}))
    before = jax.device_get(state)
    state, metrics = step(state, random_batch())
    assert np.isfinite(metrics["loss"])
    after = jax.device_get(state)
    for part in before["model"]["params"]["encoder"]:
        one, other = (jax.tree.leaves(each["model"]["params"]["encoder"][part]) for each in (before, after))
        assert not all(map(np.array_equal, one, other)), part


@pytest.mark.parametrize("way", ["maps", "detections"])
def test_each_way_captions_and_explains(way):
    captioner = captioner_of(way, "two red squares left of a ring")
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    caption = captioner(image, max_length=6, explain=True)
    assert [word.text for word in caption.words]
    heeded = captioner.attention_map(image, "two red squares", "red")
    places = captioner.grad_cam(image, "two red squares", "red", stride=8)
    for each in (heeded, places):
        assert each.shape == (32, 32)
        assert each.min() >= 0
        assert each.max() <= 1 + 1e-6
    assert heeded.max() > 0.99
    with pytest.raises(ValueError, match="stride=0: must be one of 8, 16, 32, or None"):
        captioner.grad_cam(image, "two red squares", "red", stride=0)


def test_what_a_detection_is_heeded_lies_in_its_box(monkeypatch):
    """One detection alone, in a corner: all that is heeded lies there."""
    model = model_of("detections")
    state = variables.init(model, 0)
    boxed = np.zeros((1, 3, 1, 9), np.float32)
    boxed[..., -5:-1] = [0.0, 0.5, 0.25, 1.0]
    kind = type(variables.bind(model, state).encoder)
    monkeypatch.setattr(
        kind, "maps", lambda self, *_, **__: {DETECTIONS: boxed, **{s: np.zeros((1, 1, 1, 8)) for s in (8, 16, 32)}}
    )
    found = attention_map.__wrapped__(
        model, state, np.zeros((32, 32, 3), np.uint8), np.ones((1, 1, 4), np.int32), np.array([True, True, False])
    )
    expected = np.zeros((32, 32))
    expected[:8, 16:] = 1
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_strides_that_the_encoder_lacks_are_refused():
    for model, told in (
        (
            tiny_model(kind="attention", heads=2, strides=(64,)),
            r"strides=\(64,\): the encoder's maps have strides 2, 4",
        ),
        (model_of("detections", detections=0), r"strides=\(0,\): .* 8, 16, 32; for 0, its detections, set model.enc"),
    ):
        with pytest.raises(ConfigError, match=told):
            variables.init(model, 0)


def test_onnx_refuses_a_detector(tmp_path):
    with pytest.raises(ConfigError, match=r"kind=efficientdet: its pooling is not written as ONNX; use stablehlo"):
        export_onnx(captioner_of("detections", "a ring"), tmp_path / "out", DecodingConfig(), "float32")
