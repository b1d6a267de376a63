"""What an encoder's weights ask of the images."""

from typing import Literal, NamedTuple

from dualcap_jax.models.encoders import Normalization


class Preprocessing(NamedTuple):
    """How an encoder's weights saw images in their training and are to see them."""

    normalization: Normalization
    interpolation: Literal["bilinear", "bicubic"]
    crop_fraction: float
    """Side of the centre crop over the resized image's shorter side."""
