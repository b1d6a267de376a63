"""Scenes: groups of coloured shapes in a row or a column, the embedded set's subject.

Number and relative place, which captioners are weak at, are what its images are about. What an image shows is
known exactly, so its captions can be graded (`grading`), not only compared with references.
"""

from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Literal

COUNTS = (1, 2, 3, 4)
COLOURS = ("red", "green", "blue", "yellow", "purple", "black")
SHAPES = ("square", "triangle", "cross", "ring")  # that differ at a few pixels too

Layout = Literal["single", "row", "column"]

# How likely scenes of 1, 2, 3, 4 groups are: the fewer, the larger the shapes, and the sooner they are learnt.
_GROUP_WEIGHTS = (10, 4, 2, 1)


@dataclass(frozen=True)
class Group:
    """Some shapes alike, side by side."""

    count: int
    """1 to 4."""
    colour: str
    """One of `COLOURS`."""
    shape: str
    """One of `SHAPES`."""


@dataclass(frozen=True)
class Scene:
    """One to four groups, no two alike in both colour and shape."""

    groups: tuple[Group, ...]
    """From left to right, or from top to bottom."""
    layout: Layout
    """"single" for one group."""


ALL_GROUPS = tuple(Group(*triple) for triple in product(COUNTS, COLOURS, SHAPES))

# The combinations that only the test split shows: 12 of 96. Every count and shape is among them 3 times, every
# colour twice, and no two share a pair, so that training still shows each count, colour and shape with each other.
HELD_OUT = tuple(
    group
    for group in ALL_GROUPS
    if (group.count + 3 * COLOURS.index(group.colour) + 2 * SHAPES.index(group.shape)) % 8 == 1
)
_FAMILIAR = tuple(group for group in ALL_GROUPS if group not in HELD_OUT)


def sample_scene(rng: Random, max_groups: int, unseen: bool = False) -> Scene:
    """Draw a scene.

    Args:
        rng: where chance comes from.
        max_groups: 1 to 4.
        unseen: whether one of the groups is of a combination held out from training; else none is.

    Returns:
        A scene of 1 to `max_groups` groups.
    """
    size = rng.choices(range(1, max_groups + 1), _GROUP_WEIGHTS[:max_groups])[0]
    groups = [rng.choice(HELD_OUT)] if unseen else []
    while len(groups) < size:
        group = rng.choice(_FAMILIAR)
        if all((group.colour, group.shape) != (other.colour, other.shape) for other in groups):
            groups.append(group)
    rng.shuffle(groups)
    return Scene(tuple(groups), "single" if size == 1 else rng.choice(("row", "column")))
