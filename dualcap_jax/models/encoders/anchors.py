"""Anchors: the boxes, several at each place of each level, that a detector tells the differences to.

As those of the authors' code: three sizes, a third of an octave apart, of three shapes each.
"""

import itertools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

OCTAVES = (0.0, 1 / 3, 2 / 3)
SHAPES = ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
"""Width and height."""
PER_PLACE = len(OCTAVES) * len(SHAPES)

Boxes = Float[Array, "*batch boxes 4"]
"""y0, x0, y1, x1 in pixels."""


def anchors(levels: tuple[int, int], scale: float, image_size: int) -> Float32[np.ndarray, "anchors 4"]:
    """All anchors of an image: level by level, row by row, place by place.

    Args:
        levels: the finest and the coarsest; of level l there is a place every 2 ** l pixels.
        scale: side of the smallest square anchor of each level, in places.
        image_size: side in pixels.

    Returns:
        y0, x0, y1, x1 in pixels.
    """
    found = []
    for level in range(levels[0], levels[1] + 1):
        places = -(-image_size // 2**level)
        stride = image_size / places
        centres = (np.arange(places) + 0.5) * stride
        sizes = [
            scale * stride * 2**octave * np.array((height, width))
            for octave, (width, height) in itertools.product(OCTAVES, SHAPES)
        ]
        y, x = np.meshgrid(centres, centres, indexing="ij")
        middle = np.stack([y, x], -1)[:, :, None]  # [places, places, 1, 2]
        half = np.array(sizes) / 2  # [anchors of a place, 2]
        found.append(np.concatenate([middle - half, middle + half], -1).reshape(-1, 4))
    return np.concatenate(found).astype(np.float32)


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
