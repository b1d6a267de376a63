"""What a search asks of a model."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Cache = Any
"""Any pytree: what the model remembers of the hypotheses."""

Context = Any
"""Any pytree: what the model needs to know of each example, the same for all its hypotheses."""

NextLogits = Callable[
    [Int[Array, "batch beams"], Int[Array, ""], Cache, Context], tuple[Float[Array, "batch beams vocabulary"], Cache]
]
Reorder = Callable[[Cache, Int[Array, "batch beams"]], Cache]


class DecodingModel(NamedTuple):
    """Any model that gives next-token logits and follows the hypotheses."""

    next_logits: NextLogits
    """`(tokens, position, cache, context) -> (logits, cache)`: feed each hypothesis one token at a position, counted
    from 0 and the same for all; get the logits of the token after it, and the cache with it written. The logits may be
    of any float type. Hypotheses whose answer is not read any more are fed -1."""
    reorder: Reorder
    """`(cache, ancestors) -> cache`: hypothesis i of each example is from now on the one that goes on from what
    `ancestors[:, i]` was. After the first step, which is of one hypothesis each, it makes the others."""
    cache: Cache
    """Empty, with room for at least `max_length - 1` positions."""
    context: Context = None
    """What else the model needs of each example, such as an image vector."""


def read_prompt(
    model: DecodingModel, start: Int[Array, "batch prompt"]
) -> tuple[Float[Array, "batch 1 vocabulary"], Cache]:
    """Feed the first tokens, one hypothesis for each example; the logits of the token after them, and the cache."""
    cache, last = model.cache, start.shape[1] - 1
    if last:

        def feed(position: Int[Array, ""], cache: Cache) -> Cache:
            token = jax.lax.dynamic_index_in_dim(start, position, axis=1)
            return model.next_logits(token, position, cache, model.context)[1]

        cache = jax.lax.fori_loop(0, last, feed, cache)
    return model.next_logits(start[:, last:], jnp.int32(last), cache, model.context)
