"""The original's trial of float16, with dynamic loss scaling: its accuracy suffered."""

from dataclasses import replace

from coco_b4_gpt2 import get_config as original

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's settings but for what this file is named after."""
    base = original()
    return replace(base, model=replace(base.model, dtype="float16"))
