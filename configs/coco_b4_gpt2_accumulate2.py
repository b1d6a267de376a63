"""The original's trial of accumulation: batches of 16 computed as two of 8."""

from dataclasses import replace

from coco_b4_gpt2 import get_config as original

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's settings but for what this file is named after."""
    base = original()
    return replace(base, training=replace(base.training, batch_size=16, accumulate=2, steps=base.training.steps // 2))
