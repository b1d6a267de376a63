"""Cross entropy by chunks is the plain one, whatever the shapes, the dtype and what is around it."""

import os
import re
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.models import variables
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.ops.cross_entropy import MOST, fused_cross_entropy
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_eval_step, make_train_step

from ..training.tiny import random_batch, tiny_model


def plain(hidden, embedding, labels, weights, smoothing=0.0):
    logits = jnp.einsum("...w,vw->...v", hidden, embedding.astype(hidden.dtype), preferred_element_type=jnp.float32)
    log_probs = jax.nn.log_softmax(logits)
    smoothed = optax.smooth_labels(jax.nn.one_hot(labels, len(embedding)), smoothing)
    nll = -jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0]
    return -jnp.sum(weights[..., None] * smoothed * log_probs), nll


def random_arguments(shape, vocab=60, width=16, dtype=jnp.float32):
    rng = np.random.default_rng(len(shape))
    hidden = jnp.asarray(rng.standard_normal((*shape, width)), dtype)
    labels = jnp.asarray(rng.integers(0, vocab, shape))
    weights = jnp.asarray(rng.standard_normal(shape) * (rng.random(shape) < 0.7), jnp.float32)
    return hidden, jnp.asarray(rng.standard_normal((vocab, width)), jnp.float32), labels, weights


def gradients(function, hidden, embedding, labels, weights, scale=1.0, **options):
    """The sum, the cross entropy of each place, and the gradients by hidden states and embedding."""

    def scaled(hidden, embedding):
        total, nll = function(hidden, embedding, labels, weights, **options)
        return total * scale, (total, nll)

    both, found = jax.jit(jax.grad(scaled, (0, 1), has_aux=True))(hidden, embedding)
    return jax.tree.map(lambda x: np.asarray(x, np.float64), (*found, *both))


def assert_close(ours, theirs, tolerance=1e-5):
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(mine, other, rtol=0, atol=tolerance * max(np.abs(other).max(), 1e-30))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.integers(1, 5), min_size=2, max_size=3), st.sampled_from([0.0, 0.1]), st.sampled_from([60, 500, 2000])
)
def test_sums_and_gradients_are_the_plain_ones_whatever_the_chunks(shape, smoothing, most):
    arguments = random_arguments(shape)
    ours = gradients(partial(fused_cross_entropy, most=most), *arguments, smoothing=smoothing)
    assert_close(ours, gradients(plain, *arguments, smoothing=smoothing))
    total, nll = fused_cross_entropy(*arguments, smoothing=smoothing, most=most)  # without gradients
    assert_close((np.asarray(total), np.asarray(nll)), ours[:2])


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_16_bits_are_as_near_to_float32_as_the_plain_ones(dtype):
    arguments = random_arguments((6, 7), vocab=3000, width=32, dtype=dtype)
    options = {"scale": 2.0**-3}
    ours = gradients(partial(fused_cross_entropy, most=2**16), *arguments, **options)
    rounded = gradients(plain, *arguments, **options)
    hidden, embedding, *others = arguments
    wide = hidden.astype(jnp.float32), embedding.astype(dtype).astype(jnp.float32)
    exact = gradients(plain, *wide, *others, **options)
    for mine, theirs, best in zip(ours, rounded, exact, strict=True):
        scale = np.abs(best).max()
        assert np.abs(mine - best).max() <= max(1.5 * np.abs(theirs - best).max(), 1e-5 * scale)


def test_what_float16_cannot_hold_until_it_is_scaled_is_not_lost():
    hidden, embedding, labels, weights = random_arguments((4, 5), dtype=jnp.float16)
    options = {"labels": labels, "scale": 2.0**20}
    ours = gradients(fused_cross_entropy, hidden, embedding, weights=1e-8 * weights, **options)
    theirs = gradients(fused_cross_entropy, hidden, embedding, weights=weights, labels=labels, scale=1e-8 * 2.0**20)
    assert_close(ours[2:], theirs[2:], 2e-3)
    assert np.abs(ours[2]).max() > 0


def test_it_works_under_checkpoint_and_scan():
    hidden, embedding, labels, weights = random_arguments((6, 5))

    def accumulated(function, hidden, embedding, labels, weights):
        def add(total, part):
            return total + jax.checkpoint(function)(part[0], embedding, *part[1:])[0], None

        parts = jax.tree.map(lambda x: x.reshape(3, 2, *x.shape[1:]), (hidden, labels, weights))
        return jax.lax.scan(add, jnp.float32(0), parts)[0], labels

    arguments = hidden, embedding, labels, weights
    ours = gradients(partial(accumulated, partial(fused_cross_entropy, most=300)), *arguments)
    assert_close(ours, gradients(partial(accumulated, plain), *arguments))


ON_A_MESH = """
import jax, numpy as np
from functools import partial
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from tests.ops.test_cross_entropy import random_arguments

arguments = random_arguments((8, 6))
mesh = jax.make_mesh((2, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
rows = P(("data", "fsdp"))
step = jax.jit(jax.value_and_grad(partial(fused_cross_entropy, most=300), (0, 1), has_aux=True))
alone = step(*arguments)
placed = [jax.device_put(x, NamedSharding(mesh, p)) for x, p in zip(arguments, (rows, P(None, "fsdp"), rows, rows))]
with jax.set_mesh(mesh):
    compiled = step.lower(*placed).compile().as_text()
    shared = step(*placed)
for ours, theirs in zip(jax.tree.leaves(shared), jax.tree.leaves(alone), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
assert "while(" in compiled
in_loops = [part for part in compiled.split("\\n\\n") if "all-reduce" in part and not part.startswith("ENTRY")]
assert not in_loops, in_loops
"""


def test_devices_go_through_their_own_rows_and_add_up_once():
    flags = "--xla_force_host_platform_device_count=4"
    done = subprocess.run([sys.executable, "-c", ON_A_MESH], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_places_without_weight_count_for_nothing():
    hidden, embedding, labels, _ = random_arguments((3, 4))
    found = gradients(fused_cross_entropy, hidden, embedding, labels, jnp.zeros((3, 4)))
    assert found[0] == 0
    assert not found[2].any()
    assert not found[3].any()


def test_no_step_holds_the_logits_of_all_places():
    model = tiny_model()
    language = GPT2Config(50257, 64, width=16, layers=1, heads=2)
    model = type(model)(model.encoder, language, model.merger, model.dtype)
    training, objective = TrainingConfig(batch_size=64), cross_entropy()
    batch = random_batch(64, captions=5, length=36)
    batch = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
    state = jax.eval_shape(lambda weights: init_state(weights, training, model.dtype), variables.shapes(model))
    train_step = make_train_step(model, training, objective)
    eval_step = jax.jit(lambda weights, batch: make_eval_step(model, objective)(weights, batch))
    for lowered in (train_step.compiled.lower(state, batch), eval_step.lower(state["model"], batch)):
        found = re.findall(r"tensor<([\dx]+)xf32>", lowered.as_text())
        shapes = [tuple(map(int, shape.split("x"))) for shape in found]
        logits = [np.prod(shape) for shape in shapes if 50257 in shape]
        assert logits
        assert max(logits) <= MOST < 64 * 5 * 35 * 50257
