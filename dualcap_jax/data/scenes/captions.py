"""The captions of scenes: a small grammar, and its inverse.

Each wording describes the whole scene: every group by count, colour and shape, and the order they stand in.
"""

import re
from dataclasses import dataclass
from random import Random

from dualcap_jax.data.scenes.scene import COLOURS, SHAPES, Group, Layout, Scene

CAPTIONS_PER_SCENE = 5

_SINGLE = (
    "{0}",
    "a picture of {0}",
    "{0} on a plain background",
    "{0} and nothing else",
    "only {0}",
    "nothing but {0}",
)
# {0}, {1}, ... are the groups from left to right.
_ROWS: dict[int, tuple[str, ...]] = {
    2: (
        "{0} to the left of {1}",
        "{1} to the right of {0}",
        "{0} on the left and {1} on the right",
        "on the left {0} and on the right {1}",
        "from left to right {0} and {1}",
        "from right to left {1} and {0}",
    ),
    3: (
        "{0} on the left, {1} in the middle and {2} on the right",
        "{1} between {0} on the left and {2} on the right",
        "{0}, {1} and {2} from left to right",
        "a row of {0}, {1} and {2}",
        "from left to right {0}, {1} and {2}",
        "from right to left {2}, {1} and {0}",
    ),
    4: (
        "{0} on the left, {1} and {2} in the middle and {3} on the right",
        "{1} and {2} between {0} on the left and {3} on the right",
        "{0}, {1}, {2} and {3} from left to right",
        "a row of {0}, {1}, {2} and {3}",
        "from left to right {0}, {1}, {2} and {3}",
        "from right to left {3}, {2}, {1} and {0}",
    ),
}
_ROW_TO_COLUMN = {
    "from left to right": "from top to bottom",
    "from right to left": "from bottom to top",
    "to the left of": "above",
    "to the right of": "below",
    "on the left": "at the top",
    "on the right": "at the bottom",
    "a row of": "a column of",
}


def _as_column(wording: str) -> str:
    return re.sub("|".join(_ROW_TO_COLUMN), lambda match: _ROW_TO_COLUMN[match[0]], wording)


_COLUMNS = {size: tuple(map(_as_column, wordings)) for size, wordings in _ROWS.items()}
_WORDINGS: dict[Layout, dict[int, tuple[str, ...]]] = {"single": {1: _SINGLE}, "row": _ROWS, "column": _COLUMNS}

_COUNT_WORDS = {1: "a", 2: "two", 3: "three", 4: "four"}
_COUNTS_BY_WORD = {word: count for count, word in _COUNT_WORDS.items()} | {"one": 1}
_PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
_SHAPES_BY_WORD = {word: shape for shape, plural in _PLURALS.items() for word in (shape, plural)}


def write_captions(scene: Scene, rng: Random, number: int = CAPTIONS_PER_SCENE) -> tuple[str, ...]:
    """Differently worded full descriptions of a scene.

    Args:
        scene: what to describe.
        rng: draws the wordings, and opens some that begin with a group by "there is".
        number: of captions, 1 to 6.

    Returns:
        The captions, no two alike.
    """
    wordings = rng.sample(_WORDINGS[scene.layout][len(scene.groups)], number)
    phrases = [_phrase(group) for group in scene.groups]
    captions = []
    for wording in wordings:
        opening = ""
        if wording.startswith("{") and rng.random() < 0.25:
            first = scene.groups[int(wording[1])]
            opening = "there is " if first.count == 1 else "there are "
        captions.append(opening + wording.format(*phrases))
    return tuple(captions)


def _phrase(group: Group) -> str:
    shape = group.shape if group.count == 1 else _PLURALS[group.shape]
    return f"{_COUNT_WORDS[group.count]} {group.colour} {shape}"


@dataclass(frozen=True)
class Statement:
    """What a caption says of a scene."""

    groups: tuple[Group, ...]
    """The groups it names: in the order they stand in where it relates them, else as they are named."""
    layout: Layout | None
    """How it relates all its groups; None where it does not, or in words that are not the grammar's."""


_GROUP_PATTERN = re.compile(rf"\b({'|'.join(_COUNTS_BY_WORD)}) ({'|'.join(COLOURS)}) ({'|'.join(_SHAPES_BY_WORD)})\b")
_OPENING = re.compile(r"^there (is|are) (?=\{\})")


def _readings() -> dict[str, tuple[Layout, tuple[int, ...]]]:
    """From a wording with its groups blanked to its layout and the groups' places, in order of mention."""
    return {
        re.sub(r"\{\d\}", "{}", wording): (layout, tuple(map(int, re.findall(r"\{(\d)\}", wording))))
        for layout, sizes in _WORDINGS.items()
        for wordings in sizes.values()
        for wording in wordings
    }


_READINGS = _readings()


def parse_caption(text: str) -> Statement:
    """Read what a caption says: inverse to `write_captions`, forgiving case, a full stop, wrong plurals."""
    text = re.sub(r"\s+", " ", text.lower()).replace(" ,", ",").strip(" .")
    groups = tuple(
        Group(_COUNTS_BY_WORD[count], colour, _SHAPES_BY_WORD[shape])
        for count, colour, shape in _GROUP_PATTERN.findall(text)
    )
    skeleton = _OPENING.sub("", _GROUP_PATTERN.sub("{}", text))
    if skeleton not in _READINGS:
        return Statement(groups, None)
    layout, places = _READINGS[skeleton]
    in_place = sorted(zip(places, groups, strict=True), key=lambda pair: pair[0])
    return Statement(tuple(group for _, group in in_place), layout)
