"""Image encoders, by kind."""

from dualcap_jax.models.encoders.efficientdet import EfficientDetConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.encoders.encoder import NORMALIZATIONS, Encoded, Encoder, EncoderConfig, Normalization, encoded

ENCODERS: dict[str, type[EncoderConfig]] = {"efficientnet": EfficientNetConfig, "efficientdet": EfficientDetConfig}
"""The configuration of each kind; it builds the module."""

__all__ = ["ENCODERS", "NORMALIZATIONS", "EfficientDetConfig", "EfficientNetConfig", "Encoded", "Encoder"]
__all__ += ["EncoderConfig", "Normalization", "encoded"]
