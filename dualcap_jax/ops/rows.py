"""Computing only the rows that differ, with static shapes."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped

T = TypeVar("T")


def distinct(
    parents: Int[Array, "batch beams"], tokens: Int[Array, "batch beams"]
) -> tuple[Int[Array, "batch beams"], Int[Array, "batch*beams"]]:
    """Number the distinct pairs of a parent and a token from 0; all tokens below 0 are one.

    Returns:
        The number of each beam's pair, and for each number a beam that has it, counted over the batch (what follows
        the last number means nothing).
    """
    shape, tokens = tokens.shape, jnp.maximum(tokens, -1).reshape(-1)
    parents = jnp.where(tokens < 0, -1, parents.reshape(-1))
    parents, tokens, order = jax.lax.sort((parents, tokens, jnp.arange(tokens.size)), num_keys=2)
    is_new = (parents != jnp.roll(parents, 1)) | (tokens != jnp.roll(tokens, 1))
    number = jnp.cumsum(is_new.at[0].set(True)) - 1
    nothing = jnp.zeros_like(order)
    return nothing.at[order].set(number).reshape(shape), nothing.at[number].set(order)


def eighths(rows: int) -> list[int]:
    """One to eight eighths of a number of rows, rounded up to 4 or a multiple of 8 (which cost as much as fewer)."""
    parts = [-(-rows * part // 8) for part in range(1, 9)]
    return sorted({min(rows, 4 if part <= 4 else -(-part // 8) * 8) for part in parts})


def smallest_that_holds(count: Int[Array, ""], sizes: Sequence[int], run: Callable[[int], T]) -> T:
    """`run` of the smallest of the sizes that is at least `count`; each is compiled, one is computed.

    A single size is a branch too, the other giving zeros for no rows: what a branch only reads, and what then replaces
    it, XLA can keep in one place; of a decoding loop's cache it makes two copies at each step otherwise.
    """
    branches = [partial(run, size) for size in sizes]
    if len(sizes) == 1:
        shapes = jax.eval_shape(*branches)
        nothing = partial(jax.tree.map, lambda each: jnp.zeros(each.shape, each.dtype), shapes)
        sizes, branches = [0, *sizes], [nothing, *branches]
    return jax.lax.switch(jnp.searchsorted(jnp.array(sizes), count), branches)


@jax.custom_vjp
def rearrange(
    x: Float[Array, "groups *before width"], there: Int[Array, "groups *after"], back: Int[Array, "groups *before"]
) -> Float[Array, "groups *after width"]:
    """The vectors of each group in another order, 0 where there is none.

    Args:
        x: vectors, counted from 0 in each group, row by row.
        there: number of the vector that stands at each place afterwards; one that there is not: none.
        back: the inverse, which the gradient needs: place of each vector.
    """
    return jax.vmap(take)(x.reshape(len(x), -1, x.shape[-1]), there)


def take(x: Shaped[Array, "places ..."], there: Int[Array, "..."]) -> Shaped[Array, "..."]:
    """What is at those places of the first axis, 0 at one that there is not."""
    return x.at[there].get(mode="fill", fill_value=0)


def _rearrange(x: Array, there: Array, back: Array) -> tuple[Array, tuple[Array, Array]]:
    return rearrange(x, there, back), (there, back)


def _rearrange_back(order: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    there, back = order
    return rearrange(gradient, back, there), None, None


rearrange.defvjp(_rearrange, _rearrange_back)
