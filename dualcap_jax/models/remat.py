"""Recomputing in the backward pass what would otherwise be kept for it."""

from collections.abc import Callable
from typing import TypeVar

import jax
from flax import nnx

from dualcap_jax.ops.dense import PRODUCT

Call = TypeVar("Call", bound=Callable)


def rematerialised(call: Call, remat: str, static_argnums: int | tuple[int, ...] = ()) -> Call:
    """A block's call, recomputed as its config says.

    Args:
        call: the unbound method of a module.
        remat: `none`: not at all. `blocks`: all of it. Else: all but what `ops` name `PRODUCT`.
        static_argnums: as of `nnx.remat`.
    """
    if remat == "none":
        return call
    policy = None if remat == "blocks" else jax.checkpoint_policies.save_only_these_names(PRODUCT)
    return nnx.remat(call, policy=policy, static_argnums=static_argnums)
