"""Assignment, losses and suppression against effdet and onnxruntime, on random numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from dualcap_jax.detection.losses import BOX_WEIGHT, box_loss, focal_loss
from dualcap_jax.detection.nms import suppress
from dualcap_jax.detection.targets import assign

from ..timm_peers import effdet

CLASSES, SIZE = 7, 128

chosen_of = jax.jit(suppress, static_argnames=("most", "method", "threshold", "least"))


def random_boxes(rng, number: int, side: float = 60.0) -> np.ndarray:
    start = rng.uniform(0, SIZE - side, (number, 2))
    return np.concatenate([start, start + rng.uniform(2, side, (number, 2))], 1).astype(np.float32)


def test_assignment_and_losses_are_effdets(rng):
    config = effdet.config.get_efficientdet_config("tf_efficientdet_lite0")
    config.num_classes, config.image_size = CLASSES, (SIZE, SIZE)
    their_anchors = effdet.anchors.Anchors.from_config(config)
    labels = rng.integers(1, CLASSES + 1, (3, 6)).astype(np.int32)
    labels[1, 4:], labels[2] = 0, 0  # fewer boxes, none
    boxes = np.stack([random_boxes(rng, 6) for _ in range(3)]) * (labels > 0)[..., None]
    boxes[0, 1] = boxes[0, 0] + 0.1  # two boxes for one anchor
    their_boxes, their_labels = torch.tensor(boxes), torch.tensor(labels).where(torch.tensor(labels) > 0, -1)
    classes, offsets, positives = effdet.anchors.AnchorLabeler(their_anchors, CLASSES).batch_label_anchors(
        their_boxes, their_labels
    )
    places = [level.reshape(3, -1, 1) for level in classes]

    found = jax.jit(jax.vmap(assign, (None, 0, 0)))(jnp.asarray(their_anchors.boxes.numpy()), boxes, labels)
    np.testing.assert_array_equal(found.labels, torch.cat(places, 1)[..., 0] + 1)
    wanted = torch.cat([level.reshape(3, -1, 4) for level in offsets], 1)
    np.testing.assert_allclose(found.boxes, wanted, atol=1e-5)
    np.testing.assert_array_equal(found.matched.sum(1), positives)
    assert (
        found.matched.sum(1).tolist()[2] == 0 < found.matched.sum(1).min(where=np.array([True, True, False]), initial=9)
    )

    anchors = len(their_anchors.boxes)
    logits = rng.standard_normal((3, anchors, CLASSES)).astype(np.float32) * 3
    outputs = rng.standard_normal((3, anchors, 4)).astype(np.float32)
    ends = np.cumsum([level[0].numel() for level in classes])[:-1]

    def by_level(values):
        sides = [level.shape[1:3] for level in classes]
        parts = np.split(values, ends, 1)
        return [
            torch.tensor(part.reshape(3, *side, -1)).permute(0, 3, 1, 2)
            for part, side in zip(parts, sides, strict=True)
        ]

    theirs = effdet.loss.DetectionLoss(config)(by_level(logits), by_level(outputs), classes, offsets, positives)
    divisor = float(found.matched.sum()) + 1
    of_classes = jax.vmap(focal_loss)(jnp.asarray(logits), found.labels).sum() / divisor
    of_boxes = jax.vmap(box_loss)(jnp.asarray(outputs), found.boxes, found.matched).sum() / divisor
    ours = [of_classes + BOX_WEIGHT * of_boxes, of_classes, of_boxes]
    np.testing.assert_allclose(np.array(ours), np.array(theirs), rtol=1e-5)


@pytest.fixture
def candidates(rng):
    """Boxes, scores, no two alike, and classes, of which many overlap."""
    return random_boxes(rng, 60), rng.permutation(60).astype(np.float32) / 60 + 0.005, rng.integers(0, 3, 60)


@pytest.mark.parametrize("method", ["gaussian", "linear"])
def test_soft_suppression_is_effdets(candidates, method):
    boxes, scores, classes = candidates
    order, theirs = effdet.soft_nms.batched_soft_nms(
        *map(torch.tensor, (boxes, scores, classes)), method == "gaussian", iou_threshold=0.3, score_threshold=0.01
    )
    found = chosen_of(*candidates, 60, method=method, threshold=0.3, least=0.01)
    number = len(order)
    assert 20 < number < 60
    np.testing.assert_allclose(found.scores[:number], theirs, rtol=1e-5)
    np.testing.assert_array_equal(found.scores[number:], 0)
    np.testing.assert_array_equal(found.boxes[:number], boxes[order])
    np.testing.assert_array_equal(found.classes[:number], classes[order])


def test_hard_suppression_is_onnxruntimes(candidates):
    boxes, scores, classes = candidates
    helper, kinds = onnx.helper, onnx.TensorProto
    node = helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "threshold", "least"], ["chosen"])
    inputs = [("boxes", kinds.FLOAT), ("scores", kinds.FLOAT), ("most", kinds.INT64), ("threshold", kinds.FLOAT)]
    values = [helper.make_tensor_value_info(name, kind, None) for name, kind in [*inputs, ("least", kinds.FLOAT)]]
    graph = helper.make_graph([node], "nms", values, [helper.make_tensor_value_info("chosen", kinds.INT64, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    by_class = np.where(classes == np.arange(3)[:, None], scores, 0)[None]
    feed = {"boxes": boxes[None], "scores": by_class, "most": np.array([60])}
    feed |= {"threshold": np.array([0.5], np.float32), "least": np.array([0.01], np.float32)}
    chosen = session.run(None, feed)[0][:, 2]
    chosen = chosen[np.argsort(-scores[chosen])]

    found = chosen_of(*candidates, 60, threshold=0.5, least=0.01)
    number = int((found.scores > 0).sum())
    assert 20 < number < 60
    np.testing.assert_array_equal(found.boxes[:number], boxes[chosen])
    np.testing.assert_array_equal(found.scores[:number], scores[chosen])


def test_fewer_than_there_are_are_the_best_of_them(candidates):
    all_of_them, best = chosen_of(*candidates, 60), chosen_of(*candidates, 5)
    np.testing.assert_array_equal(best.boxes, all_of_them.boxes[:5])
