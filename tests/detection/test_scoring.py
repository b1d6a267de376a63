"""Average precision: what counts as found."""

import numpy as np
import pytest

from dualcap_jax.detection import scoring
from dualcap_jax.detection.scoring import Found, Truth, average_precision
from dualcap_jax.errors import UserError

BOXES = np.array([[0, 0, 10, 20], [30, 30, 40, 40], [5, 50, 25, 90]], np.float32)
CLASSES = np.array([0, 4, 0])
TRUTH = Truth(BOXES, CLASSES, np.zeros(3, bool))


def found(boxes=BOXES, classes=CLASSES, scores=(0.9, 0.8, 0.7)) -> Found:
    return Found(np.asarray(boxes), np.asarray(scores, np.float32), np.asarray(classes))


def test_what_is_exact_is_found_and_what_overlaps_by_half_is_in_part():
    assert average_precision([TRUTH], [found()]) == pytest.approx({"AP": 1, "AP50": 1})
    shifted = BOXES.copy()
    shifted[:, 2] -= 0.35 * (BOXES[:, 2] - BOXES[:, 0])  # they overlap by 0.65: four of ten thresholds
    assert average_precision([TRUTH], [found(shifted)]) == pytest.approx({"AP": 0.4, "AP50": 1}, abs=1e-6)
    assert average_precision([TRUTH], [found(classes=[4, 0, 4])])["AP50"] == 0


def test_what_is_not_there_costs_and_in_a_crowd_does_not():
    false = np.concatenate([BOXES, [[60, 60, 80, 80]]])
    for is_crowd, expected in ((False, False), (True, True)):
        crowd = Truth(false, np.append(CLASSES, 0), np.array([False, False, False, True]))
        answer = found(false, [0, 4, 0, 0], (0.5, 0.5, 0.5, 0.9))
        scores = average_precision([crowd if is_crowd else TRUTH], [answer])
        assert (scores["AP50"] == pytest.approx(1)) == expected


def test_nothing_found_is_no_precision_and_scores_of_zero_are_nothing():
    assert average_precision([TRUTH], [found(scores=(0, 0, 0))]) == {"AP": 0, "AP50": 0}
    assert average_precision([TRUTH, TRUTH], [found(), found(scores=(0, 0, 0))])["AP50"] == pytest.approx(0.5, abs=0.01)


def test_a_missing_pycocotools_is_told_in_a_line(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError("No module named 'pycocotools'")

    monkeypatch.setattr(scoring, "import_module", missing)
    with pytest.raises(UserError, match=r"needs pycocotools.*pip install 'dualcap-jax\[detection\]'"):
        average_precision([TRUTH], [found()])
