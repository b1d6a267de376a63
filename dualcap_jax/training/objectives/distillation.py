"""Distillation (Hinton et al. 2015): a student learns a teacher's next-token distributions at each token of given
captions, beside the token itself. The captions may be the teacher's own (Kim and Rush 2016).

The teacher's language model and merger run in the student's step, on the same tokens: distributions are whole, and none
is stored. Its encoder, which costs most, does not: what it makes of each image was computed once, at its own size, and
comes with the batch.
"""

from collections.abc import Collection

import jax

from dualcap_jax.models.config import ModelConfig, Part
from dualcap_jax.models.dual import DualCaptioner
from dualcap_jax.models.variables import Variables, bind
from dualcap_jax.ops.cross_entropy import fused_cross_entropy
from dualcap_jax.training.objectives import Batch, Objective, Sums
from dualcap_jax.training.objectives.cross_entropy import batch_hidden, cross_entropy, labels_of

TEACHER = "teacher_"
"""What the names of the teacher's features in a batch begin with."""


def distillation(
    teacher: ModelConfig,
    variables: Variables,
    temperature: float = 1.0,
    soft_share: float = 0.5,
    frozen: Collection[Part] = (),
    smoothing: float = 0.0,
) -> Objective:
    """The objective: over the real tokens, the mean of (1 - soft_share) * cross entropy of the label + soft_share *
    temperature**2 * divergence of the student's distribution from the teacher's.

    Args:
        teacher: its network; it runs as in evaluation and does not learn.
        variables: the teacher's, on the devices of the step.
        temperature: as `TrainingConfig.temperature`.
        soft_share: as `TrainingConfig.soft_share`.
        frozen: of the student, as `TrainingConfig.freeze`.
        smoothing: of the labels, as `TrainingConfig.label_smoothing`.
    """

    def sums(network: DualCaptioner, batch: Batch, key: jax.Array | None) -> Sums:
        labels, real, _ = labels_of(batch)
        hidden = batch_hidden(network, batch, key, frozen)
        tutor = bind(teacher, batch["teacher"])
        taught = batch_hidden(tutor, seen_by_teacher(batch), None, ())
        loss, _ = fused_cross_entropy(
            hidden,
            network.language.output_embedding,
            labels,
            real.astype("float32"),
            smoothing,
            (taught, tutor.language.output_embedding),
            soft_share,
            temperature,
        )
        return {"loss": loss}

    return Objective(sums, "loss", cross_entropy().weight, {"teacher": variables})


def seen_by_teacher(batch: Batch) -> Batch:
    """A batch with the teacher's features in place of the images."""
    seen = {name.removeprefix(TEACHER): values for name, values in batch.items() if name.startswith(TEACHER)}
    return {name: values for name, values in batch.items() if name != "image"} | seen
