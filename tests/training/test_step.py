"""The training step: losses, accumulation, freezing, precision, and what a bad step leaves behind."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax.models import variables
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy, mean_losses, token_sums
from dualcap_jax.training.optimizer import learning_rate
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_eval_step, make_train_step

from .tiny import random_batch, tiny_model

PLAIN = {"schedule": "constant", "warmup_steps": 0, "clip_norm": 0.0, "learning_rate": 1e-3}


def begin(model, training):
    """The first state of a network, and its training step."""
    state = init_state(variables.init(model, training.seed), training, model.dtype)
    return state, make_train_step(model, training, cross_entropy(training.loss, training.freeze))


def run(model, batches, **settings):
    """The state before, the state after the batches, and the last step's metrics."""
    training = TrainingConfig(**{**PLAIN, "batch_size": 4, **settings})
    state, step = begin(model, training)
    before = jax.device_get(state)
    for batch in batches:
        state, metrics = step(state, batch)
    return before, jax.device_get(state), jax.device_get(metrics)


def assert_trees_close(ours, theirs, **tolerance):
    for path, leaf in jax.tree_util.tree_leaves_with_path(ours):
        other = theirs
        for key in path:
            other = other[key.key]
        np.testing.assert_allclose(leaf, other, err_msg=jax.tree_util.keystr(path), **tolerance)


def changed(before, after) -> bool:
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    return any(not np.array_equal(a, b) for a, b in pairs)


def test_losses_are_torch_cross_entropies_over_real_tokens_and_over_all_positions(rng):
    torch = pytest.importorskip("torch")
    logits = rng.standard_normal((3, 2, 8, 60)).astype(np.float32)
    batch = random_batch(3, 2, 9)
    sums = token_sums(jnp.asarray(logits), jnp.eye(60), batch["tokens"], batch["mask"])
    losses = mean_losses([sums])
    flat, labels = torch.tensor(logits.reshape(-1, 60)), torch.tensor(batch["tokens"][..., 1:].reshape(-1)).long()
    real = torch.tensor(batch["mask"][..., 1:].reshape(-1))
    entropy = torch.nn.functional.cross_entropy
    assert losses["loss"] == pytest.approx(float(entropy(flat[real], labels[real])), rel=1e-5)
    assert losses["loss_all_positions"] == pytest.approx(float(entropy(flat, labels)), rel=1e-5)


def test_validation_does_not_depend_on_the_batch_size_or_on_fillers():
    model = tiny_model()
    weights = variables.init(model, 0)
    step, batch = make_eval_step(model, cross_entropy()), random_batch(6)
    batch["mask"][4, 1] = False  # an image with one caption among images with two

    def loss(parts):
        return mean_losses(step(weights, part) for part in parts)

    whole = loss([batch])
    filler = {name: np.zeros_like(value[:2]) for name, value in batch.items()}
    padded = {name: np.concatenate([value[4:], filler[name]]) for name, value in batch.items()}
    split = loss([{name: value[:4] for name, value in batch.items()}, padded])
    assert split == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("loss", ["real_tokens", "all_positions"])
def test_accumulation_takes_the_step_of_the_whole_batch(loss):
    """Batch norm aside (frozen here), parts with unlike numbers of tokens give the whole batch's gradient."""
    model, batch = tiny_model(), random_batch(4)
    _, whole, whole_metrics = run(model, [batch], loss=loss)
    _, parts, parts_metrics = run(model, [batch], loss=loss, accumulate=2)
    assert parts_metrics["loss"] == pytest.approx(whole_metrics["loss"], rel=1e-5)
    assert parts_metrics["grad_norm"] == pytest.approx(whole_metrics["grad_norm"], rel=1e-4)
    moments = lambda state: state["optimizer"]["optax"][1].mu  # noqa: E731
    assert_trees_close(moments(parts), moments(whole), rtol=1e-3, atol=1e-6)


def test_several_captions_of_an_image_train_as_the_same_pairs_would():
    model, batch = tiny_model(), random_batch(2, captions=3)
    pairs = {
        "image": np.repeat(batch["image"], 3, 0),
        "tokens": batch["tokens"].reshape(6, 1, -1),
        "mask": batch["mask"].reshape(6, 1, -1),
    }
    _, _, shared = run(model, [batch], batch_size=2)
    _, _, alone = run(model, [pairs], batch_size=6)
    assert shared["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert shared["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("part", ["encoder", "language", "merger"])
def test_a_frozen_part_stays_as_it_was_and_the_others_learn(part):
    model = tiny_model(batch_norm="train", dropout=0.1, norm="batch")
    before, after, _ = run(model, [random_batch()], freeze=(part,))
    for name in ("encoder", "language", "merger"):
        assert changed(before["model"]["params"][name], after["model"]["params"][name]) == (name != part)
        if name in before["model"]["batch_stats"]:
            stats = (state["model"]["batch_stats"][name] for state in (before, after))
            assert changed(*stats) == (name != part)
    assert part not in after["optimizer"]["optax"][1].mu  # no moments are kept for it


def test_factors_scale_each_part_s_step():
    def steps(**factors):
        before, after, _ = run(tiny_model(), [random_batch()], **factors)
        params = [state["model"]["params"] for state in (before, after)]
        return jax.tree.map(lambda old, new: new - old, *params)

    plain, scaled = steps(), steps(encoder_learning_rate=0.1, language_learning_rate=0.0, merger_learning_rate=2.0)
    for part, factor in {"encoder": 0.1, "language": 0.0, "merger": 2.0}.items():
        expected = jax.tree.map(lambda step, factor=factor: step * factor, plain[part])
        assert_trees_close(scaled[part], expected, rtol=1e-2, atol=1e-6)


def test_steps_lower_the_loss_and_dropout_differs_by_step_but_not_by_run():
    model, batch = tiny_model(batch_norm="train", dropout=0.2), random_batch()
    _, _, first_metrics = run(model, [batch])
    _, once, metrics = run(model, [batch] * 20, learning_rate=3e-3)
    _, again, _ = run(model, [batch] * 20, learning_rate=3e-3)
    assert metrics["loss"] < 0.9 * first_metrics["loss"]
    assert not changed(once, again)
    assert int(once["optimizer"]["step"]) == 20


def test_clipping_bounds_the_step_s_gradient():
    _, after, metrics = run(tiny_model(), [random_batch()], clip_norm=1e-3)
    assert metrics["grad_norm"] > 1e-2  # reported before clipping
    moments = jax.tree.leaves(after["optimizer"]["optax"][1].mu)
    assert np.sqrt(sum((leaf**2).sum() for leaf in moments)) == pytest.approx(0.1 * 1e-3, rel=1e-3)


def test_bfloat16_stays_near_float32_with_float32_parameters():
    batch = random_batch()
    _, _, full = run(tiny_model(), [batch])
    _, after, half = run(tiny_model("bfloat16"), [batch])
    assert half["loss"] == pytest.approx(full["loss"], rel=2e-2)
    assert {leaf.dtype for leaf in jax.tree.leaves(after["model"])} == {np.dtype("float32")}


def test_float16_scales_its_loss_and_skips_a_step_that_overflows():
    model, training = tiny_model("float16"), TrainingConfig(**PLAIN, batch_size=4)
    (state, step), batch = begin(model, training), random_batch()
    assert float(state["optimizer"]["loss_scale"]["scale"]) == 2**15
    state, metrics = step(state, batch)
    assert bool(metrics["finite"])
    assert float(metrics["loss"]) == pytest.approx(run(tiny_model(), [batch])[2]["loss"], rel=2e-2)

    state["optimizer"]["loss_scale"]["scale"] = jnp.float32(2.0**60)
    before = jax.device_get(state)
    state, metrics = step(state, batch)
    assert not bool(metrics["finite"])
    assert np.isfinite(metrics["loss"])
    assert not changed(before["model"], jax.device_get(state["model"]))
    assert not changed(before["optimizer"]["optax"], jax.device_get(state["optimizer"]["optax"]))
    assert float(state["optimizer"]["loss_scale"]["scale"]) == 2.0**59


def test_a_loss_that_is_not_finite_changes_nothing():
    model, training = tiny_model(batch_norm="train"), TrainingConfig(**PLAIN, batch_size=4)
    state, step = begin(model, training)
    state["model"]["params"]["merger"] = jax.tree.map(lambda x: x * jnp.nan, state["model"]["params"]["merger"])
    before = jax.device_get(state["model"])
    state, metrics = step(state, random_batch())
    assert not bool(metrics["finite"])
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state["model"]), before)


def test_schedules_rise_and_fall():
    base = {"steps": 100, "learning_rate": 1.0, "warmup_steps": 10}
    constant, linear, cosine = (
        [float(learning_rate(TrainingConfig(**base, schedule=kind))(step)) for step in (0, 9, 10, 55, 99, 100)]
        for kind in ("constant", "linear", "cosine")
    )
    assert constant == pytest.approx([0.1, 1, 1, 1, 1, 1])
    assert linear == pytest.approx([0.1, 1, 1, 0.5, 1 / 90, 0], abs=1e-6)
    assert cosine == pytest.approx([0.1, 1, 1, 0.5, 0.000305, 0], abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "training.batch_size=0: must be at least 1"),
        ({"accumulate": 3}, "training.accumulate=3: must divide training.batch_size=64"),
        ({"learning_rate": float("nan")}, "training.learning_rate=nan"),
        ({"freeze": ("encoder", "language", "merger")}, "leaves nothing to train"),
    ],
)
def test_impossible_settings_name_the_field(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="XLA's compiler for CPUs is what it is about")
def test_recomputation_takes_less_memory_on_a_cpu_too():
    batch = random_batch(8, 1) | {"image": np.zeros((8, 96, 96, 3), np.uint8)}

    def temporaries(remat):
        model = tiny_model(batch_norm="train")
        state, step = begin(replace(model, encoder=replace(model.encoder, remat=remat)), TrainingConfig(batch_size=8))
        return step.compiled.lower(state, step.place(batch)).compile().memory_analysis().temp_size_in_bytes

    assert temporaries("blocks") < 0.8 * temporaries("none")
