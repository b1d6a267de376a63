"""Image encoders, by kind."""

from dualcap_jax.models.encoders.efficientdet import EfficientDetConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.encoders.encoder import (
    DETECTIONS,
    NORMALIZATIONS,
    Encoded,
    Encoder,
    EncoderConfig,
    Normalization,
    encoded,
)

ENCODERS: dict[str, type[EncoderConfig]] = {"efficientnet": EfficientNetConfig, "efficientdet": EfficientDetConfig}
"""The configuration of each kind; it builds the module."""

__all__ = ["DETECTIONS", "ENCODERS", "NORMALIZATIONS", "EfficientDetConfig", "EfficientNetConfig", "Encoded"]
__all__ += ["Encoder", "EncoderConfig", "Normalization", "encoded"]
