"""Scenes seen by an EfficientDet: its levels as feature maps, or its detections.

    python -m dualcap_jax.train --config configs/scenes_efficientdet.py --workdir runs/LEVELS
    python -m dualcap_jax.train --config configs/scenes_efficientdet.py --workdir runs/DETECTIONS \
        --model.merger.strides 0

Detections tell something once the detector has learnt boxes.
"""

from dataclasses import replace

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.detector import DetectorConfig


def get_config() -> ExperimentConfig:
    """The embedded experiment with another encoder."""
    config = ExperimentConfig()
    encoder = replace(DetectorConfig().encoder, detections=12)  # that of train_detector
    return replace(config, model=replace(config.model, encoder=encoder))
