"""Dropout with a key that may be missing."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def dropout(x: Array, rate: float, key: jax.Array | None) -> Array:
    """Zero a share `rate` of `x` and scale the rest up; without a key, return `x` as it is."""
    if key is None or rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))
