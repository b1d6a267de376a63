"""EfficientDet (Tan et al. 2020) and EfficientDet-Lite, as a flax.nnx module.

An EfficientNet, a BiFPN over its levels, and two heads that tell at each place of each level what is there and where
its box ends. The arithmetic is that of the authors' TensorFlow code, as `effdet` has it in its `tf_efficientdet_*`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Float32, Num

from dualcap_jax.detection.nms import suppress
from dualcap_jax.errors import require
from dualcap_jax.models.encoders import anchors, efficientnet
from dualcap_jax.models.encoders.anchors import decode_boxes
from dualcap_jax.models.encoders.bifpn import Activation, BiFPN, SeparableConv
from dualcap_jax.models.encoders.efficientnet import BatchNorm, EfficientNetConfig, Trunk
from dualcap_jax.models.encoders.encoder import DETECTIONS, EncoderConfig, Maps
from dualcap_jax.models.remat import rematerialised

Variant = Literal[
    "d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x", "lite0", "lite1", "lite2", "lite3", "lite3x", "lite4"
]  # fmt: skip


class Shape(NamedTuple):
    """What tells variants apart."""

    backbone: efficientnet.Variant
    image_size: int
    """Side in pixels."""
    channels: int
    """Of the BiFPN and the heads."""
    cells: int
    repeats: int
    """Of the heads' convolutions."""
    is_weighted: bool = True
    """Whether the BiFPN's nodes weigh what they fuse."""
    anchor_scale: float = 4.0
    coarsest: int = 7
    """Level."""


VARIANTS = {
    "d0": Shape("b0", 512, 64, 3, 3),
    "d1": Shape("b1", 640, 88, 4, 3),
    "d2": Shape("b2", 768, 112, 5, 3),
    "d3": Shape("b3", 896, 160, 6, 4),
    "d4": Shape("b4", 1024, 224, 7, 4),
    "d5": Shape("b5", 1280, 288, 7, 4),
    "d6": Shape("b6", 1280, 384, 8, 5, is_weighted=False),
    "d7": Shape("b6", 1536, 384, 8, 5, is_weighted=False, anchor_scale=5.0),
    "d7x": Shape("b7", 1536, 384, 8, 5, is_weighted=False, coarsest=8),
    "lite0": Shape("lite0", 320, 64, 3, 3, is_weighted=False, anchor_scale=3.0),
    "lite1": Shape("lite1", 384, 88, 4, 3, is_weighted=False, anchor_scale=3.0),
    "lite2": Shape("lite2", 448, 112, 5, 3, is_weighted=False, anchor_scale=3.0),
    "lite3": Shape("lite3", 512, 160, 6, 4, is_weighted=False),
    "lite3x": Shape("lite3", 640, 200, 6, 4, is_weighted=False, anchor_scale=3.0),
    "lite4": Shape("lite4", 640, 224, 7, 4, is_weighted=False),
}

CANDIDATES = 1000
"""Anchors of an image, the likeliest, of which those that overlap a better one of their class are left out."""


@dataclass(frozen=True)
class EfficientDetConfig(EncoderConfig):
    """Which EfficientDet, and how it is trained."""

    kind: ClassVar[str] = "efficientdet"

    variant: Variant = "d0"
    """Published size. The lite ones have a lite backbone, use ReLU6, and sum what they fuse."""
    width: float | None = None
    """Factor on the channels of B0 in the backbone. None: the variant's."""
    depth: float | None = None
    """Factor on the repeats of B0 in the backbone. None: the variant's."""
    channels: int | None = None
    """Channels of the levels and the heads. None: the variant's."""
    cells: int | None = None
    """Cells of the BiFPN, one after the other. None: the variant's."""
    repeats: int | None = None
    """Convolutions of each head before the last. None: the variant's."""
    finest: int = 3
    """Finest level, 1 to 5: level l has a place every 2 ** l pixels."""
    coarsest: int | None = None
    """Coarsest level, at least 5. None: the variant's, 7 or 8."""
    anchor_scale: float | None = None
    """Side of the smallest square anchor of each level, in places. None: the variant's."""
    num_classes: int = 90
    """Classes that the heads tell apart. 0: the levels alone, without heads."""
    detections: int = 0
    """Detections of an image, the best, that a merger may ask as it asks feature maps, under stride 0."""
    drop_connect: float = 0.2
    """Rate at which the backbone's last block is left out of a training example, in [0, 1); for earlier blocks less, in
    proportion."""
    batch_norm: Literal["train", "frozen"] = "train"
    """Statistics that batch norm uses in training. train: the batch's, which are learnt. frozen: the running ones,
    which stay as they are."""
    batch_norm_momentum: float = 0.99
    """Share of the running statistics kept at each training step; use less for runs of few steps."""

    def __post_init__(self) -> None:
        def check(condition: bool, name: str, accepted: str) -> None:
            require(condition, f"model.encoder.{name}", getattr(self, name), f"must be {accepted}")

        super().__post_init__()
        for name in ("width", "depth", "anchor_scale"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, name, "more than 0, or None for the variant's")
        for name in ("channels", "cells", "repeats"):
            value = getattr(self, name)
            check(value is None or value >= 1, name, "at least 1, or None for the variant's")
        check(1 <= self.finest <= 5, "finest", "1 to 5")
        coarsest = self.coarsest
        check(coarsest is None or coarsest >= max(5, self.finest + 1), "coarsest", "at least 5, and above finest")
        check(self.num_classes >= 0, "num_classes", "at least 0")
        check(self.detections >= 0, "detections", "at least 0")
        check(not self.detections or self.num_classes > 0, "detections", "0 where model.encoder.num_classes is 0")
        check(0 <= self.drop_connect < 1, "drop_connect", "in [0, 1)")
        check(0 <= self.batch_norm_momentum < 1, "batch_norm_momentum", "in [0, 1)")

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> "EfficientDet":
        """EfficientDet with initial parameters."""
        return EfficientDet(self, dtype=dtype, rngs=rngs)

    @property
    def shape(self) -> Shape:
        """The variant's, with what is set otherwise."""
        chosen = {name: getattr(self, name) for name in ("channels", "cells", "repeats", "anchor_scale", "coarsest")}
        return VARIANTS[self.variant]._replace(**{name: value for name, value in chosen.items() if value is not None})

    @property
    def levels(self) -> range:
        """Numbers of the levels, the finest first."""
        return range(self.finest, self.shape.coarsest + 1)

    @property
    def backbone(self) -> EfficientNetConfig:
        """Of the backbone."""
        return EfficientNetConfig(
            self.shape.backbone,
            self.width,
            self.depth,
            drop_connect=self.drop_connect,
            batch_norm=self.batch_norm,
            batch_norm_momentum=self.batch_norm_momentum,
            normalization=self.normalization,
            remat=self.remat,
        )

    def anchors(self, image_size: int) -> Float32[np.ndarray, "anchors 4"]:
        """y0, x0, y1, x1 in pixels of the anchors of an image of this side, in the order of `EfficientDet.detect`."""
        places = [(-(-image_size // 2**level),) * 2 for level in self.levels]
        return (image_size * anchors.anchors(places, self.shape.anchor_scale)).astype(np.float32)


class Head(nnx.Module):
    """Separable convolutions shared by all levels, with batch norms of each level's own.

    Args:
        config: the detector's.
        outputs: of each anchor.
        bias: initial, of the outputs.
        activation: after each batch norm.
        rngs: gives the initial parameters.
    """

    def __init__(self, config: EfficientDetConfig, outputs: int, bias: float, activation: Activation, rngs: nnx.Rngs):
        channels, repeats = config.shape.channels, config.shape.repeats
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")
        self.outputs, self.activation, self.remat = outputs, activation, config.remat
        self.convolutions = nnx.List([SeparableConv(channels, channels, init, rngs) for _ in range(repeats)])
        self.norms = nnx.List(
            [nnx.List([BatchNorm(channels, config.batch_norm_momentum) for _ in config.levels]) for _ in range(repeats)]
        )
        self.predict = SeparableConv(channels, anchors.PER_PLACE * outputs, init, rngs, bias)

    def __call__(self, levels: Sequence[Maps], train: bool) -> Float32[Array, "batch anchors outputs"]:
        """Of all anchors, level by level."""
        run = rematerialised(Head.of_level, self.remat, (2, 3))
        return jnp.concatenate([run(self, maps, number, train) for number, maps in enumerate(levels)], 1)

    def of_level(self, x: Maps, number: int, train: bool) -> Float32[Array, "batch anchors outputs"]:
        """Of the anchors of one level, which is given by its number, from 0."""
        for convolution, norms in zip(self.convolutions, self.norms, strict=True):
            x = self.activation(norms[number](convolution(x), train))
        # [batch, height, width, anchors * outputs] -> [batch, height * width * anchors, outputs]
        return self.predict(x).reshape(len(x), -1, self.outputs).astype(jnp.float32)


class EfficientDet(nnx.Module):
    """A detector; as an image encoder it gives the BiFPN's levels as feature maps, and their means as the vector.

    Args:
        config: which, and how it is trained.
        dtype: of the computation; parameters and batch statistics stay float32.
        rngs: gives the initial parameters, as the authors'.
    """

    def __init__(self, config: EfficientDetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        shape = config.shape
        self.backbone = Trunk(config.backbone, dtype=dtype, rngs=rngs)
        self.strides = tuple(2**level for level in config.levels)
        self.fpn = BiFPN(
            [count for stride, count in self.backbone.channels.items() if stride in self.strides],
            len(config.levels),
            shape.channels,
            shape.cells,
            activation=self.backbone.activation,
            is_weighted=shape.is_weighted,
            momentum=config.batch_norm_momentum,
            remat=config.remat,
            rngs=rngs,
        )
        head = partial(Head, config, activation=self.backbone.activation, rngs=rngs)
        is_rare = -math.log((1 - 0.01) / 0.01)  # so that at first a class is told with a probability of 0.01
        self.class_head = head(outputs=config.num_classes, bias=is_rare) if config.num_classes else None
        self.box_head = head(outputs=4, bias=0.0) if config.num_classes else None
        self.num_features = len(config.levels) * shape.channels

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the levels, by stride in pixels, the smallest first; before them of the detections, if any."""
        detections = {DETECTIONS: self.config.num_classes + 5} if self.config.detections else {}
        return detections | dict.fromkeys(self.strides, self.config.shape.channels)

    def maps(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> dict[int, Maps]:
        """The BiFPN's levels, by stride, and the detections; arguments as of `vector`.

        Detections are [batch, detections, 1, channels], the best first: the classes' probabilities, y0, x0, y1 and x1
        in shares of the image's sides, and the largest of the probabilities. Where there are no more, all of it is 0.
        """
        return self._with_detections(self._levels(images, train, key), train)

    def vector(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """The means of all levels over their places, side by side, of the computation's dtype.

        Args:
            images: uint8 RGB of any size, or float and already normalised.
            train: use drop-connect and batch statistics, and learn these unless the config freezes them.
            key: for drop-connect.

        Raises:
            ValueError: in training without a key where the rate is above 0.
        """
        return self.vector_of(self._levels(images, train, key))

    def vector_of(
        self, maps: Mapping[int, Maps], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """What `vector` makes of what `maps` gave."""
        means = [maps[stride].mean((1, 2), dtype=jnp.float32) for stride in self.strides]
        return jnp.concatenate(means, 1).astype(self.dtype)

    def deeper_maps(self, maps: Mapping[int, Maps], stride: int) -> dict[int, Maps]:
        """See `Encoder`: of a level the detections are made."""
        return dict(maps) if stride == DETECTIONS else self._with_detections(maps)

    def detect(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> tuple[Float32[Array, "batch anchors classes"], Float32[Array, "batch anchors 4"]]:
        """What is at each anchor of `EfficientDetConfig.anchors`; arguments as of `vector`.

        Returns:
            Logits of the classes, each a yes or no of its own, and ty, tx, th, tw as `decode_boxes` reads them.

        Raises:
            ValueError: without heads (`num_classes` 0), and as of `vector`.
        """
        return self.detect_of(self._levels(images, train, key), train=train)

    def detect_of(
        self, maps: Mapping[int, Maps], *, train: bool = False
    ) -> tuple[Float32[Array, "batch anchors classes"], Float32[Array, "batch anchors 4"]]:
        """What `detect` makes of what `maps` gave."""
        if self.class_head is None or self.box_head is None:
            raise ValueError("num_classes=0: without heads nothing is detected")
        levels, use_batch = [maps[stride] for stride in self.strides], self._uses_batch(train)
        return self.class_head(levels, use_batch), self.box_head(levels, use_batch)

    def _uses_batch(self, train: bool) -> bool:
        return train and self.config.batch_norm == "train"

    def _levels(
        self, images: Num[Array, "batch height width 3"], train: bool, key: jax.Array | None
    ) -> dict[int, Maps]:
        if train and key is None and self.config.drop_connect:
            raise ValueError(f"training with drop-connect {self.config.drop_connect} needs a key")
        found = self.backbone.maps(images, train=train, key=key)
        levels = self.fpn([found[stride] for stride in self.strides if stride in found], self._uses_batch(train))
        return dict(zip(self.strides, levels, strict=True))

    def _with_detections(self, maps: Mapping[int, Maps], train: bool = False) -> dict[int, Maps]:
        """The levels, and the detections made of them."""
        if not self.config.detections:
            return dict(maps)
        places = [(maps[stride].shape[1], maps[stride].shape[2]) for stride in self.strides]
        relative = jnp.asarray(anchors.anchors(places, self.config.shape.anchor_scale), jnp.float32)

        def of_image(
            logits: Float[Array, "anchors classes"], outputs: Float[Array, "anchors 4"]
        ) -> Float[Array, "detections 1 channels"]:
            _, at = jax.lax.top_k(logits.max(-1), min(CANDIDATES, len(logits)))
            probabilities, boxes = jax.nn.sigmoid(logits[at]), jnp.clip(decode_boxes(outputs[at], relative[at]), 0, 1)
            scores, kinds = probabilities.max(-1), logits[at].argmax(-1)
            found = suppress(*jax.lax.stop_gradient((boxes, scores, kinds)), self.config.detections)
            each = jnp.concatenate([probabilities, boxes, scores[:, None]], -1)[found.places]
            return jnp.where(found.scores[:, None] > 0, each, 0)[:, None]

        found = jax.vmap(of_image)(*self.detect_of(maps, train=train))
        return {**maps, DETECTIONS: found.astype(self.dtype)}
