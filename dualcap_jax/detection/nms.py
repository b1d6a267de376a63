"""Non-maximum suppression in static shapes: the best of boxes that overlap.

Boxes are top, left, bottom, right, in pixels.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dualcap_jax.detection.targets import overlaps

Method = Literal["hard", "gaussian", "linear"]
"""What becomes of the score of a box that overlaps a better one. hard: it is 0. gaussian, linear: it falls with the
overlap (Soft-NMS, Bodla et al. 2017)."""


class Detections(NamedTuple):
    """What is found in an image, the best first."""

    boxes: Float[Array, "*batch found 4"]
    scores: Float[Array, "*batch found"]
    """0 where there are no more."""
    classes: Int[Array, "*batch found"]
    """From 0."""
    places: Int[Array, "*batch found"]
    """Among the boxes given."""


def suppress(
    boxes: Float[Array, "boxes 4"],
    scores: Float[Array, " boxes"],
    classes: Int[Array, " boxes"],
    most: int,
    *,
    method: Method = "hard",
    threshold: float = 0.5,
    sigma: float = 0.5,
    least: float = 0.0,
) -> Detections:
    """Choose the best boxes, one after the other; each lowers the scores of those of its class that it overlaps.

    Args:
        boxes: in any order.
        scores: of the boxes.
        classes: of the boxes.
        most: how many to choose.
        method: how scores are lowered.
        threshold: overlap above which `hard` and `linear` lower a score.
        sigma: width of the bell of `gaussian`.
        least: scores up to this one are none.
    """

    def pick(scores: Float[Array, " boxes"], _: None) -> tuple[Float[Array, " boxes"], tuple[Array, Array]]:
        best = scores.argmax()
        overlap = overlaps(boxes[best][None], boxes)[0]
        kept = {
            "hard": jnp.where(overlap > threshold, 0.0, 1.0),
            "linear": jnp.where(overlap > threshold, 1 - overlap, 1),
            "gaussian": jnp.exp(-(overlap**2) / sigma),
        }[method]
        lowered = jnp.where(classes == classes[best], scores * kept, scores)
        return jnp.where(lowered > least, lowered, 0).at[best].set(0), (best, scores[best])

    _, (chosen, found) = jax.lax.scan(pick, jnp.where(scores > least, scores, 0), None, most)
    return Detections(boxes[chosen], found, classes[chosen], chosen)
