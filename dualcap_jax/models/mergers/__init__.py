"""Where image and sentence meet, after the last layers of both backbones.

A merger is a class, in one of these files, and its name in `KINDS`.
"""

from collections.abc import Callable

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.models.mergers.attention import Attention
from dualcap_jax.models.mergers.merger import (
    PUBLISHED_HIDDEN,
    Image,
    Merger,
    MergerConfig,
    MergerState,
    PositionBatchNorm,
    Positions,
)
from dualcap_jax.models.mergers.original import GRU, SkipMLP, TwoStream

__all__ = ["KINDS", "PUBLISHED_HIDDEN", "Attention", "Image", "Merger", "MergerConfig", "MergerState"]
__all__ += ["PositionBatchNorm", "Positions", "merge", "merge_step"]

KINDS: dict[str, Callable[..., Merger]] = {
    "skip_mlp": SkipMLP,
    "two_stream": TwoStream,
    "gru_two_stream": TwoStream,
    "gru": GRU,
    "attention": Attention,
}


def merge(
    merger: Merger,
    image: Image,
    hidden: Float[Array, "batch captions length width"],
    mask: Bool[Array, "batch captions length"],
    train: bool = False,
    key: jax.Array | None = None,
) -> Float[Array, "batch captions length width"]:
    """Merge whole captions.

    Args:
        merger: any of `KINDS`.
        image: what `look` gave of each image, shared by its captions.
        hidden: the language model's hidden states.
        mask: True on real tokens (read by batch norm in training alone).
        train: use and update batch statistics.
        key: for dropout; None turns it off.
    """
    state = merger.init_state(*hidden.shape[:2])
    return merger(_as(hidden.dtype, image), hidden, state, Positions(mask, train, key=key))[0]


def merge_step(
    merger: Merger,
    image: Image,
    hidden: Float[Array, "batch captions width"],
    position: Int[Array, ""],
    state: MergerState,
) -> tuple[Float[Array, "batch captions width"], MergerState]:
    """Merge one more position of each caption, as `merge` would at that position, and the state after it."""
    positions = Positions(start=position)
    merged, state = merger(_as(hidden.dtype, image), hidden[:, :, None], state, positions)
    return merged[:, :, 0], state


def _as(dtype: DTypeLike, image: Image) -> Image:
    return jax.tree.map(lambda leaf: leaf.astype(dtype), image)
