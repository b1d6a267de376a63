"""Validation during training: the losses of the whole split, shared out over devices and processes."""

import math
from collections.abc import Callable, Mapping
from itertools import islice

import jax
from jax.sharding import Mesh

from dualcap_jax import interrupts
from dualcap_jax.config import ExperimentConfig
from dualcap_jax.data.pipeline import eval_batches
from dualcap_jax.data.records import Source
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.models.variables import Variables
from dualcap_jax.processes import in_turn
from dualcap_jax.resolving import packs
from dualcap_jax.training.loop import Scores
from dualcap_jax.training.objectives import Batch, Objective
from dualcap_jax.training.objectives.cross_entropy import mean_losses
from dualcap_jax.training.packing import plan_validation
from dualcap_jax.training.sharding import local_copy, local_mesh
from dualcap_jax.training.step import make_eval_step


def validated_images(config: ExperimentConfig) -> int:
    """Images of each validation, in whole batches; 0: all."""
    return math.ceil(config.training.validation_images / config.training.batch_size) * config.training.batch_size


Rewarding = Callable[[Variables, Batch], list[float]] | None
"""Rewards of a validation batch's images, where the best checkpoint hangs on them."""


def make_evaluate(
    config: ExperimentConfig,
    objective: Objective,
    source: Source,
    tokenizer: CaptionTokenizer,
    mesh: Mesh,
    reward: Rewarding = None,
) -> Callable[[Variables], Scores | None]:
    """Validation's losses as a function of the network's variables; None where an end was asked for meanwhile.

    Each of several processes takes its share of the batches. With `reward` also the mean of what it gives the images
    of each batch.
    """
    batch_size, (process, processes) = config.training.batch_size, (jax.process_index(), jax.process_count())
    own = local_mesh(mesh)
    batches = eval_batches(source, tokenizer, config.data, batch_size, process, processes)
    if packs(config):
        packer = plan_validation(source, tokenizer, config.data, config.training, config.model.merger, own.size)
        batches = batches.map(packer)
    limit = validated_images(config) // batch_size or math.ceil(len(source) / batch_size)
    step = make_eval_step(config.model, objective, own)

    def evaluate(variables: Variables) -> Scores | None:
        sums: list[Mapping[str, float]] = []
        rewards: list[float] = []
        variables = local_copy(mesh, own, variables)
        for batch in islice(batches, len(range(process, limit, processes))):
            if interrupts.asked() and processes == 1:
                return None
            sums.append({name: float(value) for name, value in step(variables, batch).items()})
            if reward:
                rewards += reward(variables, batch)
        return mean_losses(in_turn(sums)) | ({"reward": sum(rewards) / len(rewards)} if reward else {})

    return evaluate
