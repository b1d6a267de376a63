"""What decoding remembers, each distinct prefix of the batch computed and kept once, whatever the language model.

A language model that never sees an image gives equal prefixes equal states, in one image's beams or in several's. So a
step computes rows, one for each distinct prefix. A beam that goes on from another takes over its row and its sources;
what a row wrote stays where it was written and is never copied.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dualcap_jax.ops.rows import distinct, eighths, smallest_that_holds

Compute = Callable[[Int[Array, " rows"], Int[Array, "rows length"]], tuple[Float[Array, "rows width"], Any]]
"""`(tokens, sources) -> (hidden, newest)`: feed each row a token; get its hidden state, and the pytree of [rows, ...]
that the cache gets at this position. `sources` are the rows that wrote what each row has at each position."""


class PrefixCache(NamedTuple):
    """A pytree for `lax.while_loop`."""

    rows: Int[Array, "batch beams"]
    """int32, the row that has each beam's prefix."""
    sources: Int[Array, "batch beams length"]
    """int32, the row that wrote what each beam has at each position."""
    written: Any
    """A pytree of [length, rows, ...]: what each row wrote at each position, such as a layer's keys and values."""


def init_cache(batch: int, length: int, written: Any) -> PrefixCache:
    """An empty cache, of one beam for each example; `written` is a pytree of zeros [length, batch * beams, ...]."""
    # XLA would write zeros that it can see together with the first position, slowly: on CPU 5 % of a search with 256
    # beams.
    written = jax.lax.optimization_barrier(written)
    return PrefixCache(jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1, length), jnp.int32), written)


def reorder_cache(cache: PrefixCache, ancestors: Int[Array, "batch beams"]) -> PrefixCache:
    """The cache of beams that go on from those numbered in `ancestors`."""
    sources = jnp.take_along_axis(cache.sources, ancestors[:, :, None], axis=1)
    return cache._replace(rows=jnp.take_along_axis(cache.rows, ancestors, axis=1), sources=sources)


def step(
    compute: Compute, tokens: Int[Array, "batch beams"], position: Int[Array, ""], cache: PrefixCache
) -> tuple[Float[Array, "batch beams width"], PrefixCache]:
    """The hidden state of one more token per beam, at `position`, and the cache with it.

    A token below 0 is of a beam that nobody reads any more: its hidden state means nothing.
    """
    row_of, beam_of = distinct(cache.rows, tokens)
    sources = cache.sources.reshape(tokens.size, -1)  # [batch * beams, length]

    def run(size: int) -> tuple[Float[Array, "batch beams width"], Any]:
        some = beam_of[:size]
        hidden, newest = compute(tokens.reshape(-1)[some], sources[some])
        filled = jax.tree.map(lambda new: jnp.pad(new, ((0, tokens.size - size), *[(0, 0)] * (new.ndim - 1))), newest)
        return hidden[row_of], filled

    # The beams of a single image all differ.
    sizes = [tokens.size] if len(tokens) == 1 else eighths(tokens.size)
    hidden, newest = smallest_that_holds(row_of.max() + 1, sizes, run)

    def write(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice(old, new[None], (position, *[0] * new.ndim))

    written = jax.tree.map(write, cache.written, newest)
    return hidden, PrefixCache(row_of, cache.sources.at[:, :, position].set(row_of), written)
