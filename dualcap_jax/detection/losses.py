"""The losses of EfficientDet (Tan et al. 2020), summed; each is divided by the number of matched anchors plus one."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

ALPHA, GAMMA = 0.25, 1.5
"""Of the focal loss: the weight of what is there against what is not, and how little is made of what is known well."""
DELTA = 0.1
"""Distance up to which the Huber loss is a square."""
BOX_WEIGHT = 50.0
"""Weight of the boxes' loss against the classes'."""


def focal_loss(logits: Float[Array, "anchors classes"], labels: Int[Array, " anchors"]) -> Float[Array, ""]:
    """Sigmoid focal loss (Lin et al. 2017) of one image, over all anchors and classes.

    Args:
        logits: of each class.
        labels: class that each anchor is to find, from 1; 0 where there is nothing.
    """
    is_there = jnp.arange(1, logits.shape[-1] + 1) == labels[:, None]
    right = jnp.where(is_there, logits, -logits).astype(jnp.float32)  # the higher, the more certain of what is so
    loss = jnp.exp(-GAMMA * jax.nn.softplus(right)) * jax.nn.softplus(-right)
    return (jnp.where(is_there, ALPHA, 1 - ALPHA) * loss).sum()


def box_loss(
    outputs: Float[Array, "anchors 4"], targets: Float[Array, "anchors 4"], matched: Bool[Array, " anchors"]
) -> Float[Array, ""]:
    """Huber loss of one image: the mean over a box's four numbers, summed over the matched anchors."""
    error = jnp.abs(outputs.astype(jnp.float32) - targets)
    square = jnp.minimum(error, DELTA)
    loss = 0.5 * square**2 + DELTA * (error - square)
    return jnp.where(matched[:, None], loss, 0).sum() / 4
