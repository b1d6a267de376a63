"""Grading captions of scenes: are the shapes, the colours, the counts and the relation right?"""

from collections.abc import Mapping, Sequence
from itertools import permutations

from dualcap_jax.data.scenes.captions import parse_caption
from dualcap_jax.data.scenes.scene import Scene

PARTS = ("shape", "colour", "count", "relation")


def grade(caption: str, scene: Scene) -> dict[str, bool | None]:
    """Which parts of a caption are right.

    The groups that the caption names are matched with the scene's, one to one, so that they agree in as much
    as possible; a part is right when it is right in every group, so that one wrong word fails one part only. A
    caption with more groups or fewer than the scene has nothing right.

    Args:
        caption: any text.
        scene: what the image shows.

    Returns:
        "shape", "colour", "count": whether each is right for all groups. "relation": whether the caption relates
        all groups, truly; None for a scene of one group, which has no relation.
    """
    stated = parse_caption(caption)
    size = len(scene.groups)
    if len(stated.groups) != size:
        return {"shape": False, "colour": False, "count": False, "relation": None if size == 1 else False}

    def agreement(order: tuple[int, ...]) -> tuple[int, int, int, int, bool]:
        pairs = [(stated.groups[place], group) for place, group in zip(order, scene.groups, strict=True)]
        shapes = sum(said.shape == true.shape for said, true in pairs)
        colours = sum(said.colour == true.colour for said, true in pairs)
        counts = sum(said.count == true.count for said, true in pairs)
        return shapes + colours + counts, shapes, colours, counts, order == tuple(range(size))

    _, shapes, colours, counts, in_order = max(map(agreement, permutations(range(size))))
    relation = None if size == 1 else in_order and stated.layout == scene.layout
    return {"shape": shapes == size, "colour": colours == size, "count": counts == size, "relation": relation}


def accuracies(captions: Sequence[str], scenes: Sequence[Scene]) -> Mapping[str, float]:
    """Share of right captions in percent, for each part and for "all" (the parts together).

    Args:
        captions: one for each scene.
        scenes: what the images show, at least one.

    Returns:
        "shape", "colour", "count", "all" over all scenes; "relation" over those of two groups or more, and absent
        where there is none.
    """
    grades = [grade(caption, scene) for caption, scene in zip(captions, scenes, strict=True)]
    shares = {}
    for part in PARTS:
        judged = [bool(each[part]) for each in grades if each[part] is not None]
        if judged:
            shares[part] = 100 * sum(judged) / len(judged)
    shares["all"] = 100 * sum(False not in each.values() for each in grades) / len(grades)
    return shares
