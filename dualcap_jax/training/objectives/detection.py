"""The loss of a detector, over images with boxes."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dualcap_jax.detection.losses import BOX_WEIGHT, box_loss, focal_loss
from dualcap_jax.detection.targets import Targets, assign
from dualcap_jax.models.detector import Detector
from dualcap_jax.models.encoders import EfficientDetConfig
from dualcap_jax.training.objectives import Batch, Objective, Sums

ImageSums = dict[str, Float[Array, " batch"]]
"""Sums of each image of a batch: `loss`, of which `class_loss` and `box_loss` are part, and `matched` anchors."""


def detection(encoder: EfficientDetConfig) -> Objective:
    """The objective of batches of `data.boxes.pipeline`."""

    def sums(network: Detector, batch: Batch, key: jax.Array | None) -> Sums:
        found = image_sums(encoder, batch, *network(batch["image"], key))
        return {name: values.sum() for name, values in found.items()}

    def weight(batch: Batch) -> Float[Array, ""]:
        return targets_of(encoder, batch).matched.sum() + 1.0

    return Objective(sums, "loss", weight)


def targets_of(encoder: EfficientDetConfig, batch: Batch) -> Targets:
    """What each anchor of each image is to find; of a batch in parts, of all of them."""
    anchors = jnp.asarray(encoder.anchors(batch["image"].shape[-2]))
    boxes, labels = (batch[name] for name in ("boxes", "labels"))
    places = boxes.shape[-2]  # [parts, part, places, ...] -> [batch, places, ...]
    return jax.vmap(assign, (None, 0, 0))(anchors, boxes.reshape(-1, places, 4), labels.reshape(-1, places))


def image_sums(
    encoder: EfficientDetConfig,
    batch: Batch,
    logits: Float[Array, "batch anchors classes"],
    outputs: Float[Array, "batch anchors 4"],
) -> ImageSums:
    """The losses of each image, from what the network tells of it."""
    targets = targets_of(encoder, batch)
    classes = jax.vmap(focal_loss)(logits, targets.labels)
    boxes = BOX_WEIGHT * jax.vmap(box_loss)(outputs, targets.boxes, targets.matched)
    matched = targets.matched.sum(1, dtype=jnp.float32)
    return {"loss": classes + boxes, "class_loss": classes, "box_loss": boxes, "matched": matched}
