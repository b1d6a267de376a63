"""What an experiment may turn on: label smoothing, averaged parameters, layer-wise learning rates, plain captions."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dualcap_jax.data.config import DataConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy, label_sums
from dualcap_jax.training.optimizer import layer_factors, make_optimizer
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_train_step

from .tiny import random_batch, tiny_model

PLAIN = {"schedule": "constant", "warmup_steps": 0, "learning_rate": 1e-3, "batch_size": 4}


def test_label_smoothing_is_torchs(rng):
    torch = pytest.importorskip("torch")
    logits, labels = rng.standard_normal((3, 7, 60)).astype(np.float32), rng.integers(0, 60, (3, 7))
    real = rng.random((3, 7)) < 0.7
    arrays = map(jnp.asarray, (logits, np.eye(60, dtype=np.float32), labels, real))
    sums = jax.device_get(label_sums(*arrays, smoothing=0.1, minimised="smoothed"))
    where = torch.tensor(real)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits)[where], torch.tensor(labels)[where], label_smoothing=0.1, reduction="sum"
    )
    assert sums["smoothed"] == pytest.approx(float(theirs), rel=1e-5)


def test_the_average_is_optax_exponential_moving_average_and_only_the_model_is_averaged():
    config, batch = tiny_model(), random_batch()
    plain, averaged = (TrainingConfig(**PLAIN, average=average) for average in (0.0, 0.9))
    model = variables.init(config, 0)
    states = {each.average: init_state(jax.tree.map(jnp.copy, model), each, config.dtype) for each in (plain, averaged)}
    steps = {each.average: make_train_step(config, each, cross_entropy()) for each in (plain, averaged)}
    expected = jax.device_get(model["params"])
    for number in range(3):
        for average, step in steps.items():
            states[average], _ = step(states[average], batch)
        trained = jax.device_get(states[0.0]["model"]["params"])
        keep = min(0.9, (1 + number) / (10 + number))
        expected = optax.incremental_update(trained, expected, 1 - keep)
    close = {"rtol": 1e-5, "atol": 1e-6}
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, **close), states[0.9]["model"]["params"], expected
    )
    raw = states[0.9]["optimizer"]["params"]
    jax.tree.map(lambda ours, theirs: np.testing.assert_allclose(ours, theirs, **close), raw, trained)


def test_a_frozen_part_is_not_averaged():
    config, training = tiny_model(), TrainingConfig(**PLAIN, average=0.9, freeze=("encoder",))
    model = variables.init(config, 0)
    before = jax.device_get(model["params"]["encoder"])
    state = init_state(model, training, config.dtype)
    state, _ = make_train_step(config, training, cross_entropy(frozen=training.freeze))(state, random_batch())
    assert set(state["optimizer"]["params"]) == {"language", "merger"}
    jax.tree.map(np.testing.assert_array_equal, state["model"]["params"]["encoder"], before)


def test_each_layer_learns_at_the_rate_of_its_height():
    config = tiny_model()
    params = variables.init(config, 0)["params"]
    blocks = len(params["encoder"]["blocks"])
    factors = layer_factors(params["encoder"], 0.5)
    assert factors["head"]["kernel"] == factors["classifier"]["bias"] == 1
    assert factors["blocks"][blocks - 1]["depthwise"] == 0.5
    assert factors["stem"] == factors["stem_norm"]["scale"] == 0.5 ** (blocks + 1)
    language = layer_factors(params["language"], 0.5)
    assert language["final_norm"]["scale"] == 1
    assert language["token_embedding"] == language["position_embedding"] == 0.25

    optimizer = make_optimizer(TrainingConfig(**PLAIN, clip_norm=0.0, layer_decay=0.5, language_learning_rate=0.1))
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    assert float(updates["language"]["token_embedding"][0, 0]) == pytest.approx(-1e-3 * 0.1 * 0.25, rel=1e-4)
    assert float(updates["merger"]["first"]["encoder"]["bias"][0]) == pytest.approx(-1e-3, rel=1e-4)


@pytest.mark.parametrize(
    ("caption", "styled"),
    [("A dog runs .", "a dog runs"), ("A dog.", "a dog"), (" Two Dogs ", "two dogs"), ("a.m. news.", "a.m. news")],
)
def test_plain_captions_have_small_letters_and_no_full_stop(caption, styled):
    assert DataConfig(plain=True).styled(caption) == styled
    assert DataConfig().styled(caption) == caption


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"label_smoothing": 1.0}, r"training.label_smoothing=1.0: must be in \[0, 1\)"),
        ({"label_smoothing": 0.1, "loss": "all_positions"}, "training.label_smoothing=0.1: must be 0 with"),
        ({"average": -0.1}, r"training.average=-0.1: must be in \[0, 1\)"),
        ({"layer_decay": 0.0}, r"training.layer_decay=0.0: must be in \(0, 1\]"),
    ],
)
def test_impossible_settings_are_refused(settings, told):
    with pytest.raises(ConfigError, match=told):
        TrainingConfig(**settings)
