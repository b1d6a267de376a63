"""COCO's average precision, by pycocotools."""

import io
from collections.abc import Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from dualcap_jax.errors import UserError


class MetricError(UserError):
    """What a score needs isn't here; the message says how to mend it."""


class Truth(NamedTuple):
    """What is in an image."""

    boxes: Float[np.ndarray, "boxes 4"]
    """Top, left, bottom, right in pixels."""
    classes: Int[np.ndarray, " boxes"]
    """From 0."""
    crowd: Bool[np.ndarray, " boxes"]
    """Whether a box stands for many objects: what is found in it counts neither as right nor as wrong."""


class Found(NamedTuple):
    """What a detector finds in an image."""

    boxes: Float[np.ndarray, "found 4"]
    """As those of `Truth`."""
    scores: Float[np.ndarray, " found"]
    """Those of 0 are none."""
    classes: Int[np.ndarray, " found"]
    """From 0."""


def require_pycocotools() -> Any:
    """The package.

    Raises:
        MetricError: it is not installed.
    """
    try:
        return import_module("pycocotools.coco"), import_module("pycocotools.cocoeval")
    except ImportError as error:
        mend = "pip install 'dualcap-jax[detection]'"
        raise MetricError(f"average precision needs pycocotools, which is not installed ({error}); {mend}") from None


def average_precision(truths: Sequence[Truth], found: Sequence[Found]) -> dict[str, float]:
    """COCO's main scores, of at most 100 detections an image.

    Args:
        truths: of each image.
        found: of each image.

    Returns:
        `AP`, the mean over overlaps of 0.5 to 0.95, and `AP50`, at an overlap of 0.5: 0 to 1, means over the classes
        that the images show; 0 where they show none.

    Raises:
        MetricError: pycocotools is not installed.
    """
    coco, cocoeval = require_pycocotools()
    classes = np.concatenate([*(each.classes for each in truths), *(each.classes for each in found)])
    ids = range(1, len(truths) + 1)  # pycocotools takes 0 for none
    objects = [
        {"image_id": image, "category_id": int(kind), "bbox": box, "area": box[2] * box[3], "iscrowd": int(crowd)}
        for image, each in zip(ids, truths, strict=True)
        for box, kind, crowd in zip(_as_coco(each.boxes), each.classes, each.crowd, strict=True)
    ]
    results = [
        {"image_id": image, "category_id": int(kind), "bbox": box, "score": float(score)}
        for image, each in zip(ids, found, strict=True)
        for box, kind, score in zip(_as_coco(each.boxes), each.classes, each.scores, strict=True)
        if score > 0
    ]
    if not results:
        return {"AP": 0.0, "AP50": 0.0}
    with redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image} for image in ids],
            "categories": [{"id": int(kind)} for kind in np.unique(classes)],
            "annotations": [each | {"id": place} for place, each in enumerate(objects, 1)],
        }
        truth.createIndex()
        evaluation = cocoeval.COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: max(float(evaluation.stats[place]), 0.0) for place, name in enumerate(("AP", "AP50"))}


def _as_coco(boxes: Float[np.ndarray, "boxes 4"]) -> list[list[float]]:
    """Left, top, width, height."""
    top, left, bottom, right = np.asarray(boxes, np.float64).T
    return np.stack([left, top, right - left, bottom - top], 1).tolist()
