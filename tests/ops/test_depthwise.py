"""The depthwise convolutions of CPU and GPU against XLA's grouped one."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.ops.depthwise import depthwise_conv, grouped_conv, quicker_conv, same_padding


def assert_same(ours, theirs):
    assert ours.shape == theirs.shape
    assert float(jnp.abs(ours - theirs).max()) <= 1e-5 * float(jnp.abs(theirs).max()) + 1e-12


@pytest.mark.parametrize("way", [depthwise_conv, quicker_conv], ids=["this device's", "a GPU's"])
@settings(max_examples=12)
@given(
    st.integers(1, 3),
    st.integers(1, 17),
    st.integers(1, 17),
    st.integers(1, 6),
    st.sampled_from([1, 3, 5]),
    st.integers(1, 2),
)
def test_values_and_gradients_are_those_of_the_grouped_convolution(way, batch, height, width, channels, k, stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((batch, height, width, channels)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((k, k, 1, channels)), jnp.float32)
    shape = (batch, -(-height // stride), -(-width // stride), channels)
    dy = jnp.asarray(rng.standard_normal(shape), jnp.float32)

    @partial(jax.jit, static_argnums=0)
    def values_and_gradients(conv, x, w, dy):
        y, back = jax.vjp(lambda x, w: conv(x, w, stride), x, w)
        return y, *back(dy)

    ours, theirs = (values_and_gradients(conv, x, kernel, dy) for conv in (way, grouped_conv))
    for mine, reference in zip(ours, theirs, strict=True):
        assert_same(mine, reference)


@pytest.mark.parametrize("stride", [1, 2])
def test_it_works_under_jit_and_remat(stride):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((2, 9, 8, 4)), jnp.float32)
    kernel = jnp.asarray(rng.standard_normal((5, 5, 1, 4)), jnp.float32)

    def loss(conv, x, w):
        return jnp.sum(jnp.tanh(conv(x, w, stride)) ** 2)

    checkpointed = jax.checkpoint(lambda x, w: loss(depthwise_conv, x, w))
    ours = jax.jit(jax.grad(checkpointed, (0, 1)))(x, kernel)
    theirs = jax.grad(lambda x, w: loss(grouped_conv, x, w), (0, 1))(x, kernel)
    for mine, reference in zip(ours, theirs, strict=True):
        assert_same(mine, reference)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(380, 3, 2, (0, 1)), (190, 3, 2, (0, 1)), (95, 5, 2, (2, 2)), (48, 3, 2, (0, 1)), (24, 5, 2, (1, 2))],
)
def test_padding_is_tensorflow_s_at_b4_s_sizes(size, kernel, stride, padding):
    assert same_padding(size, kernel, stride) == (-(-size // stride), padding)
