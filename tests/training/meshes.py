"""Trains on eight simulated devices, laid out in several ways, and prints what came of it as JSON.

A process of its own: how many devices there are is settled when JAX begins.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from dualcap_jax.data.config import DataConfig
from dualcap_jax.models import variables
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives.cross_entropy import cross_entropy
from dualcap_jax.training.objectives.distillation import distillation
from dualcap_jax.training.packing import Packer, places_of, room_for
from dualcap_jax.training.sharding import ShardingConfig, make_mesh, place
from dualcap_jax.training.state import init_state
from dualcap_jax.training.step import make_train_step

from .tiny import random_batch, tiny_model, with_features

STEPS, IMAGES = 20, 16
FIRST = 3  # the steps after which statistics are compared
LENGTH = DataConfig().max_length


def train(
    data: int, fsdp: int, accumulate: int = 1, merger: str = "attention", packed: bool = True, taught: bool = False
) -> dict:
    """The losses of some steps, with batch norm in training; and what the first device keeps of the state.

    Statistics are those after a few steps: Adam steps by the sign of a gradient, and where that is 0 but for rounding,
    parameters part ways by more at each step.
    """
    reads = {"strides": (8,), "heads": 2, "grid": 4} if merger == "attention" else {}
    model = tiny_model(batch_norm="train", kind=merger, **reads)
    model = replace(model, language=replace(model.language, width=128))
    training = TrainingConfig(batch_size=IMAGES, accumulate=accumulate, learning_rate=3e-3, warmup_steps=0)
    mesh = make_mesh(ShardingConfig(data, fsdp), IMAGES, accumulate)
    teacher = place(mesh, variables.init(model, 1))
    objective = distillation(model, teacher, temperature=2.0) if taught else cross_entropy()
    step = make_train_step(model, training, objective, mesh)
    state = place(mesh, init_state(variables.init(model, 0), training, model.dtype))
    kept = sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(state))
    batches = [random_batch(IMAGES, 3, 16, seed) for seed in range(STEPS)]
    batches = [with_features(model, batch) for batch in batches] if taught else batches
    parts = accumulate * mesh.size
    room, _ = room_for([places_of(batch["mask"]) for batch in batches], 15, parts)
    packer = Packer(room, parts, apart=not model.merger.is_pointwise) if packed else dict
    losses = []
    for batch in batches:
        state, metrics = step(state, packer(batch))
        losses.append(float(metrics["loss"]))
        if len(losses) == FIRST:
            means = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(state["model"]["batch_stats"])])
    text = step.compiled.lower(state, step.place(packer(batches[0]))).compile().as_text()
    return {"losses": losses, "bytes": kept, "statistics": means.tolist(), "gathers": "all-gather" in text}


if __name__ == "__main__":
    layouts = {
        "one": (1, 1), "data": (8, 1), "fsdp": (1, 8), "both": (2, 4), "one, in two parts": (1, 1, 2),
        "both, in two parts": (2, 4, 2), "one, padded": (1, 1, 1, "skip_mlp", False),
        "data, padded": (8, 1, 1, "skip_mlp", False), "one, taught": (1, 1, 1, "attention", True, True),
        "both, taught": (2, 4, 1, "attention", True, True),
    }  # fmt: skip
    Path(sys.argv[1]).write_text(json.dumps({name: train(*layout) for name, layout in layouts.items()}))
