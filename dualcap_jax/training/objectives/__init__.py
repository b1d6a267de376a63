"""What training minimises: pure functions of the network, a batch and a key."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
from jaxtyping import Array, Float

from dualcap_jax.data.features import MAPS
from dualcap_jax.models.encoders import Encoded

Batch = dict[str, Any]
"""Images: `image` uint8 [batch, size, size, 3], or already encoded, `vector` [batch, features] and `maps_STRIDE`
[batch, height, width, channels]; `image_id` int64 [batch]; as a teacher encoded them `teacher_vector` and
`teacher_maps_STRIDE`.
Captions: `tokens` int32 and `mask` bool [batch, captions, length], or what a `Packer` made of them."""


def images_of(batch: Batch) -> Array | Encoded:
    """The images of a batch, as the network takes them."""
    if "image" in batch:
        return batch["image"]
    maps = {int(name.removeprefix(MAPS)): values for name, values in batch.items() if name.startswith(MAPS)}
    return Encoded(batch["vector"], maps)


Sums = dict[str, Float[Array, ""]]
"""Sums over a batch, by name; those of parts of a batch add up to those of the whole."""


@dataclass(frozen=True)
class Objective:
    """Something to minimise: a sum over its weight."""

    sums: Callable[[Any, Batch, jax.Array | None], Sums]
    """`(network, batch, key) -> sums`, in training; without a key as in evaluation."""
    minimised: str
    """Name of the sum to minimise; only that one has a gradient."""
    weight: Callable[[Batch], Float[Array, ""]]
    """What it is divided by. It hangs on the batch alone, so that parts of one can be computed one after the other."""
    given: Batch = field(default_factory=dict)
    """What `sums` finds in every batch, or part of one, besides: arrays that a training step keeps on its devices."""
