"""Scenes seen by an EfficientDet: its levels as feature maps, or its detections.

    python -m dualcap_jax.train --config configs/scenes_efficientdet.py --workdir runs/LEVELS
    python -m dualcap_jax.train --config configs/scenes_efficientdet.py --workdir runs/DETECTIONS \
        --model.merger.strides 0

Detections tell something once the detector has learnt boxes.
"""

from dataclasses import replace

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders import EfficientDetConfig


def get_config() -> ExperimentConfig:
    """The embedded experiment with another encoder."""
    config = ExperimentConfig()
    encoder = EfficientDetConfig(
        "d0",
        width=0.5,
        depth=0.5,
        channels=32,
        cells=2,
        repeats=2,
        finest=2,  # shapes are 5 to 23 of 64 pixels
        coarsest=5,
        anchor_scale=1.5,
        num_classes=24,  # a colour and a shape
        detections=12,
        drop_connect=0.0,
        batch_norm_momentum=0.95,
    )
    return replace(config, model=replace(config.model, encoder=encoder))
