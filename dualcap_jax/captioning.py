"""From images to what a search found in one compiled call, traced by an earlier process where one did."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8, UInt32

from dualcap_jax import inference, kept
from dualcap_jax.decoding import Decoded, Rules
from dualcap_jax.explain.words import log_probs
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.variables import Variables


def caption(
    config: ModelConfig,
    variables: Variables,
    images: UInt8[np.ndarray, "batch size size 3"],
    start: list[int],
    rules: Rules,
    *,
    explain: bool,
    seed: int = 0,
    first: int = 0,
) -> tuple[Decoded, tuple[np.ndarray, ...] | None]:
    """Captions of images on one device.

    Args:
        config: of the network.
        variables: its params and batch_stats.
        images: as they are.
        start: tokens that every caption begins with.
        rules: of the search.
        explain: give what `log_probs` tells of each caption, too.
        seed: of what is drawn by chance.
        first: number of the first image among all, which what is drawn for it hangs on.
    """
    leaves, tree = jax.tree.flatten(variables)
    numbers = first + np.arange(len(images), dtype=np.int32)
    args = leaves, images, np.array(start, np.int32), numbers, np.uint32(seed % 2**32)  # as jax.random.key
    key = config, tree, rules, explain, images.shape, len(start)
    if key not in _compiled:
        about = config, str(tree), rules, explain
        _compiled[key] = kept.traced(partial(_caption, config, tree, rules, explain), about, *args)
    found, seen = jax.device_get(_compiled[key](*args))
    return Decoded(*found), seen or None


_compiled: dict[Hashable, Callable[..., Any]] = {}


def _caption(
    config: ModelConfig,
    tree: Any,
    rules: Rules,
    explain: bool,
    leaves: list[Array],
    images: UInt8[Array, "batch size size 3"],
    start: Int[Array, " prompt"],
    numbers: Int[Array, " batch"],
    seed: UInt32[Array, ""],
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    variables = jax.tree.unflatten(tree, leaves)
    features = inference.encode(config, variables, images)
    keys = jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(numbers)
    found = inference.search(config, variables, features, start, keys, rules)
    seen = log_probs(config, variables, features, found.tokens, found.lengths) if explain else ()
    return tuple(found), seen
