"""The report's further work: the two-stream merger (384, 384, 512)."""

from dataclasses import replace

from coco_b4_gpt2 import get_config as original

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.mergers import MergerConfig


def get_config() -> ExperimentConfig:
    """The original's settings but for what this file is named after."""
    base = original()
    return replace(base, model=replace(base.model, merger=MergerConfig(kind="two_stream")))
