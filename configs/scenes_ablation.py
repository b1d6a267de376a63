"""The embedded run for ablations: shorter, its merger of the published widths, so that each kind can take its own."""

from dataclasses import replace

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The embedded experiment but for that."""
    base = ExperimentConfig()
    return replace(
        base,
        model=replace(base.model, merger=replace(base.model.merger, kind="skip_mlp", hidden=())),
        training=replace(base.training, steps=600),
    )
