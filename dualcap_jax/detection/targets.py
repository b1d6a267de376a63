"""What each anchor is to find: the assignment of an image's boxes to anchors.

Boxes are top, left, bottom, right, in pixels.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

THRESHOLD = 0.5
"""Least overlap with a box at which an anchor is to find it."""
EPSILON = 1e-8


class Targets(NamedTuple):
    """What each anchor is to find."""

    labels: Int[Array, "*batch anchors"]
    """Class, from 1; 0 where there is nothing to find."""
    boxes: Float[Array, "*batch anchors 4"]
    """The box relative to the anchor: (y, x) of the centres' distance in the anchor's sides, then the logarithm of the
    (height, width) in the anchor's; 0 where there is nothing to find."""

    @property
    def matched(self) -> Bool[Array, "*batch anchors"]:
        """Where there is something to find."""
        return self.labels > 0


def overlaps(ours: Float[Array, "ours 4"], theirs: Float[Array, "theirs 4"]) -> Float[Array, "ours theirs"]:
    """Intersection over union of each pair of boxes; 0 where both are empty."""
    corners = jnp.maximum(ours[:, None, :2], theirs[:, :2]), jnp.minimum(ours[:, None, 2:], theirs[:, 2:])
    common = jnp.prod(jnp.maximum(corners[1] - corners[0], 0), -1)
    areas = [jnp.prod(boxes[:, 2:] - boxes[:, :2], -1) for boxes in (ours, theirs)]
    union = areas[0][:, None] + areas[1] - common
    return jnp.where(common > 0, common / jnp.where(common > 0, union, 1), 0)


def assign(anchors: Float[Array, "anchors 4"], boxes: Float[Array, "boxes 4"], labels: Int[Array, " boxes"]) -> Targets:
    """Assign the boxes of one image to anchors, as EfficientDet's authors do.

    An anchor is to find the box that it overlaps most, where that is by `THRESHOLD` or more. Besides, the anchor that
    overlaps a box most is to find this one, so that none is lost; of several boxes with one such anchor the first.

    Args:
        anchors: of all levels.
        boxes: of the image.
        labels: class of each, from 1; 0 where there is no box.
    """
    found = jnp.where(labels[:, None] > 0, overlaps(boxes, anchors), -1)  # [boxes, anchors]
    best = jnp.where(found.max(0) >= THRESHOLD, found.argmax(0), -1)
    own = (jnp.arange(anchors.shape[0]) == found.argmax(1)[:, None]) & (labels[:, None] > 0)
    box = jnp.where(own.any(0), own.argmax(0), best)
    matched = box >= 0
    targets = jnp.where(matched[:, None], encode(boxes[box], anchors), 0)
    return Targets(jnp.where(matched, labels[box], 0), targets)


def encode(boxes: Float[Array, "anchors 4"], anchors: Float[Array, "anchors 4"]) -> Float[Array, "anchors 4"]:
    """Each box relative to its anchor, as `Targets.boxes`; inverse to what decodes a detector's outputs."""
    (centres, sides), (from_centres, from_sides) = map(_centres, (boxes, anchors))
    sides, from_sides = sides + EPSILON, from_sides + EPSILON
    return jnp.concatenate([(centres - from_centres) / from_sides, jnp.log(sides / from_sides)], -1)


def _centres(boxes: Float[Array, "boxes 4"]) -> tuple[Float[Array, "boxes 2"], Float[Array, "boxes 2"]]:
    """Centres and sides."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
