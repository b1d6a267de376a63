"""Anchors: the boxes, several at each place of each level, that a detector tells the differences to.

As those of the authors' code: three sizes, a third of an octave apart, of three shapes each.
"""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

OCTAVES = (0.0, 1 / 3, 2 / 3)
SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height."""
PER_PLACE = len(OCTAVES) * len(SHAPES)

Boxes = Float[Array, "*batch boxes 4"]
"""y0, x0, y1, x1, in pixels or in shares of the image's sides."""


def anchors(places: Sequence[tuple[int, int]], scale: float) -> Float64[np.ndarray, "anchors 4"]:
    """All anchors of an image: level by level, row by row, place by place.

    Args:
        places: rows and columns of each level.
        scale: side of the smallest square anchor of each level, in places.

    Returns:
        y0, x0, y1, x1 in shares of the image's height and width.
    """
    shapes = [(height, width) for width, height in SHAPES]
    sizes = scale * np.array([2**octave * np.array(shape) for octave, shape in itertools.product(OCTAVES, shapes)])
    found = []
    for level in places:
        y, x = np.meshgrid(*(np.arange(count) + 0.5 for count in level), indexing="ij")
        centres = np.stack([y, x], -1)[:, :, None]  # [rows, columns, 1, 2], in places
        corners = np.stack([centres - sizes / 2, centres + sizes / 2], -2)  # [rows, columns, anchors of a place, 2, 2]
        found.append((corners / level).reshape(-1, 4))
    return np.concatenate(found)


def decode_boxes(outputs: Float[Array, "*batch anchors 4"], anchors: Float[Array, "*#batch anchors 4"]) -> Boxes:
    """The boxes that a detector's outputs tell.

    Args:
        outputs: ty, tx, th, tw: the centre's distance from the anchor's in its heights and widths, and the logarithms
            of the box's height and width in these.
        anchors: y0, x0, y1, x1.
    """
    start, end = jnp.split(jnp.asarray(anchors), 2, -1)
    shift, grown = jnp.split(outputs, 2, -1)
    size = end - start
    middle, half = (start + end) / 2 + shift * size, jnp.exp(grown) * size / 2
    return jnp.concatenate([middle - half, middle + half], -1)
