"""EfficientNet (Tan & Le 2019) and EfficientNet-Lite, as a flax.nnx module.

The arithmetic is that of the authors' TensorFlow code: SAME padding (asymmetric at stride 2), batch norm with epsilon
1e-3, squeeze-excite of a quarter of the block's input, drop-connect that grows with depth.
"""

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Num

from dualcap_jax.errors import require
from dualcap_jax.models.encoders.encoder import EncoderConfig, Maps, normalize
from dualcap_jax.models.remat import rematerialised
from dualcap_jax.ops.dense import dense
from dualcap_jax.ops.depthwise import depthwise_conv

Variant = Literal[
    "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "b8", "l2", "lite0", "lite1", "lite2", "lite3", "lite4"
]  # fmt: skip

# width, depth, nominal image size in pixels, dropout
VARIANTS = {
    "b0": (1.0, 1.0, 224, 0.2),
    "b1": (1.0, 1.1, 240, 0.2),
    "b2": (1.1, 1.2, 260, 0.3),
    "b3": (1.2, 1.4, 300, 0.3),
    "b4": (1.4, 1.8, 380, 0.4),
    "b5": (1.6, 2.2, 456, 0.4),
    "b6": (1.8, 2.6, 528, 0.5),
    "b7": (2.0, 3.1, 600, 0.5),
    "b8": (2.2, 3.6, 672, 0.5),
    "l2": (4.3, 5.3, 800, 0.5),
    "lite0": (1.0, 1.0, 224, 0.2),
    "lite1": (1.0, 1.1, 240, 0.2),
    "lite2": (1.1, 1.2, 260, 0.3),
    "lite3": (1.2, 1.4, 280, 0.3),
    "lite4": (1.4, 1.8, 300, 0.3),
}

# output channels, kernel, stride, expansion, repeats, of each stage of B0
STAGES = (
    (16, 3, 1, 1, 1),
    (24, 3, 2, 6, 2),
    (40, 5, 2, 6, 2),
    (80, 3, 2, 6, 3),
    (112, 5, 1, 6, 3),
    (192, 5, 2, 6, 4),
    (320, 3, 1, 6, 1),
)


@dataclass(frozen=True)
class EfficientNetConfig(EncoderConfig):
    """Which EfficientNet, and how it is trained."""

    kind: ClassVar[str] = "efficientnet"

    variant: Variant = "b0"
    """Published size. The lite ones have no squeeze-excite, use ReLU6, and keep stem and head at a fixed width."""
    width: float | None = None
    """Factor on the channels of B0. None: the variant's."""
    depth: float | None = None
    """Factor on the repeats of B0. None: the variant's."""
    num_classes: int = 1000
    """Length of the image vector, which is the classifier's logits. 0: the pooled features, without a classifier."""
    dropout: float | None = None
    """Dropout rate before the classifier, in [0, 1). None: the variant's."""
    drop_connect: float = 0.2
    """Rate at which the last block is left out of a training example, in [0, 1); for earlier blocks less, in
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
        for name in ("width", "depth"):
            value = getattr(self, name)
            check(value is None or 0 < value < math.inf, name, "more than 0, or None for the variant's")
        check(self.num_classes >= 0, "num_classes", "at least 0")
        check(self.dropout is None or 0 <= self.dropout < 1, "dropout", "in [0, 1), or None for the variant's")
        check(0 <= self.drop_connect < 1, "drop_connect", "in [0, 1)")
        check(0 <= self.batch_norm_momentum < 1, "batch_norm_momentum", "in [0, 1)")

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> "EfficientNet":
        """EfficientNet with initial parameters."""
        return EfficientNet(self, dtype=dtype, rngs=rngs)

    @property
    def repeats(self) -> list[int]:
        """Blocks of each stage."""
        depth, last = self.depth or VARIANTS[self.variant][1], len(STAGES) - 1
        fixed = (0, last) if self.is_lite else ()
        return [repeats if stage in fixed else math.ceil(depth * repeats) for stage, (*_, repeats) in enumerate(STAGES)]

    @property
    def is_lite(self) -> bool:
        """Whether the variant is one of EfficientNet-Lite."""
        return self.variant.startswith("lite")


def round_filters(filters: int, width: float) -> int:
    """Channels scaled and rounded to a multiple of 8, never by more than a tenth down."""
    scaled = filters * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded


_conv_init = nnx.initializers.variance_scaling(2.0, "fan_out", "normal")


def _depthwise_init(key: jax.Array, shape: tuple[int, ...]) -> Array:
    return jax.random.normal(key, shape) * (2 / (shape[0] * shape[1])) ** 0.5  # fan out of one channel


def _dense_init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    return jax.random.uniform(key, shape, dtype, -1, 1) / shape[1] ** 0.5


class BatchNorm(nnx.Module):
    """Batch norm over all axes but the last, with statistics in float32 whatever the computation's dtype.

    The running variance learns the unbiased one, as in TensorFlow and torch.
    """

    def __init__(self, channels: int, momentum: float):
        self.momentum = momentum
        self.unfrozen = False
        """Whether it is trained though the encoder is frozen, which is then called without `train`."""
        self.scale, self.bias = nnx.Param(jnp.ones(channels)), nnx.Param(jnp.zeros(channels))
        self.mean, self.var = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))

    def __call__(self, x: Float[Array, "... channels"], train: bool) -> Float[Array, "... channels"]:
        """Normalise; in training by the batch, whose statistics are learnt."""
        mean, var = self.mean[...], self.var[...]
        if train or self.unfrozen:
            axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
            wide = x.astype(jnp.float32)
            batch_mean = wide.mean(axes)
            batch_var = jnp.square(wide - batch_mean).mean(axes)
            unbiased = batch_var * (count / max(count - 1, 1))
            keep = self.momentum
            self.mean[...] = jax.lax.stop_gradient(keep * mean + (1 - keep) * batch_mean)
            self.var[...] = jax.lax.stop_gradient(keep * var + (1 - keep) * unbiased)
            mean, var = batch_mean, batch_var
        factor = self.scale[...] * jax.lax.rsqrt(var + 1e-3)
        return (x.astype(jnp.float32) * factor + (self.bias[...] - mean * factor)).astype(x.dtype)


class Pointwise(nnx.Module):
    """A 1 x 1 convolution without bias, as a matrix product."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.kernel = nnx.Param(_conv_init(rngs.params(), (1, 1, inputs, outputs)))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width outputs"]:
        """The same product at each place."""
        return dense(x, self.kernel[...][0, 0].astype(x.dtype), 0)


class SqueezeExcite(nnx.Module):
    """Weighs channels by what the whole image holds."""

    def __init__(self, channels: int, squeezed: int, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = partial(nnx.Linear, dtype=dtype, kernel_init=_conv_init, rngs=rngs)
        self.reduce, self.expand = linear(channels, squeezed), linear(squeezed, channels)

    def __call__(self, x: Float[Array, "batch height width channels"]) -> Float[Array, "batch height width channels"]:
        """Weigh the channels."""
        pooled = x.mean((1, 2), dtype=jnp.float32).astype(x.dtype)
        weights = jax.nn.sigmoid(self.expand(jax.nn.silu(self.reduce(pooled))))
        return x * weights[:, None, None]


class Block(nnx.Module):
    """Inverted bottleneck: expand, depthwise convolution, squeeze-excite, project, skip."""

    def __init__(
        self,
        config: EfficientNetConfig,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int,
        expansion: int,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.stride, self.has_skip = stride, stride == 1 and inputs == outputs
        self.activation = relu6 if config.is_lite else jax.nn.silu
        inner = inputs * expansion
        norm = partial(BatchNorm, momentum=config.batch_norm_momentum)
        self.expand = Pointwise(inputs, inner, rngs) if expansion > 1 else None
        self.expand_norm = norm(inner) if expansion > 1 else None
        self.depthwise = nnx.Param(_depthwise_init(rngs.params(), (kernel, kernel, 1, inner)))
        self.depthwise_norm = norm(inner)
        squeezed = max(1, int(inputs * 0.25))
        self.squeeze_excite = None if config.is_lite else SqueezeExcite(inner, squeezed, dtype, rngs)
        self.project, self.project_norm = Pointwise(inner, outputs, rngs), norm(outputs)

    def __call__(
        self, x: Float[Array, "batch height width inputs"], keep: Float[Array, "batch 1 1 1"] | None, train: bool
    ) -> Float[Array, "batch _h _w outputs"]:
        """Height and width are divided by the stride; `keep` multiplies the branch beside the skip, image by image."""
        y = x
        if self.expand is not None and self.expand_norm is not None:
            y = self.activation(self.expand_norm(self.expand(y), train))
        y = depthwise_conv(y, self.depthwise[...].astype(y.dtype), self.stride)
        y = self.activation(self.depthwise_norm(y, train))
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project_norm(self.project(y), train)
        if not self.has_skip:
            return y
        return x + (y if keep is None else y * keep)


def relu6(x: Array) -> Array:
    """Between 0 and 6."""
    return jnp.clip(x, 0, 6)


class Trunk(nnx.Module):
    """An EfficientNet without its head: the stem and the blocks.

    Args:
        config: which, and how it is trained.
        dtype: of the computation; parameters and batch statistics stay float32.
        rngs: gives the initial parameters, as the authors'.
    """

    def __init__(self, config: EfficientNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config, self.dtype = config, dtype
        width = config.width or VARIANTS[config.variant][0]
        self.activation = relu6 if config.is_lite else jax.nn.silu
        channels = round_filters(32, 1.0 if config.is_lite else width)  # Lite scales neither stem nor head
        self.stem = nnx.Param(_conv_init(rngs.params(), (3, 3, 3, channels)))
        self.stem_norm = BatchNorm(channels, config.batch_norm_momentum)
        blocks = []
        for (outputs, kernel, stride, expansion, _), repeats in zip(STAGES, config.repeats, strict=True):
            outputs = round_filters(outputs, width)
            for index in range(repeats):
                step = stride if index == 0 else 1
                blocks.append(Block(config, channels, outputs, kernel, step, expansion, dtype, rngs))
                channels = outputs
        self.blocks = nnx.List(blocks)

    def maps(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> dict[int, Maps]:
        """The last feature maps of each stride.

        Args:
            images: uint8 RGB of any size, or float and already normalised.
            train: use dropout, drop-connect and batch statistics, and learn these unless the config freezes them.
            key: for dropout and drop-connect.
        """
        return self._maps(images, 0, train, key)

    def deeper_maps(self, maps: Mapping[int, Maps], stride: int) -> dict[int, Maps]:
        """See `Encoder`: those of larger strides."""
        last = max(index for index, each in enumerate(self._strides) if each == stride)
        return {**maps, **self._maps(maps[stride], last + 1)}

    def _maps(
        self, x: Num[Array, "batch _h _w _c"], start: int, train: bool = False, key: jax.Array | None = None
    ) -> dict[int, Maps]:
        """Those of the layers from number `start` on, of what that one takes."""
        found = {}
        for layer, stride in zip(self._layers(train, key)[start:], self._strides[start:], strict=True):
            found[stride] = x = layer(x)
        return found

    @property
    def channels(self) -> dict[int, int]:
        """Channels of the feature maps, by stride in pixels, the smallest first."""
        return {stride: norm.scale.shape[0] for stride, norm in zip(self._strides, self._last_norms, strict=True)}

    @property
    def _last_norms(self) -> list[BatchNorm]:
        """Of each of `_layers`."""
        return [self.stem_norm, *(block.project_norm for block in self.blocks)]

    @property
    def _strides(self) -> list[int]:
        """Of what each of `_layers` returns."""
        return list(accumulate([2, *(block.stride for block in self.blocks)], operator.mul))

    def _layers(self, train: bool, key: jax.Array | None) -> list[Callable[[Array], Array]]:
        """What is applied one after the other: stem and blocks."""
        key = key if train else None
        use_batch = self._uses_batch(train)
        run = rematerialised(Block.__call__, self.config.remat, 3)

        def block(index: int, x: Array) -> Array:
            block, keep = self.blocks[index], None
            if key is not None and block.has_skip and (drop := self.config.drop_connect * index / len(self.blocks)):
                kept = jax.random.bernoulli(jax.random.fold_in(key, index), 1 - drop, (len(x), 1, 1, 1))
                keep = kept.astype(x.dtype) / (1 - drop)
            return run(block, x, keep, use_batch)

        return [partial(self._stem, train=use_batch), *(partial(block, index) for index in range(len(self.blocks)))]

    def _uses_batch(self, train: bool) -> bool:
        return train and self.config.batch_norm == "train"

    def _stem(self, images: Num[Array, "batch height width 3"], train: bool) -> Float[Array, "batch _h _w channels"]:
        x = jax.lax.conv_general_dilated(
            normalize(images, self.config.normalization).astype(self.dtype),
            self.stem[...].astype(self.dtype),
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return self.activation(self.stem_norm(x, train))


class EfficientNet(Trunk):
    """An image encoder; arguments as of `Trunk`."""

    def __init__(self, config: EfficientNetConfig, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        super().__init__(config, dtype=dtype, rngs=rngs)
        variant_width, _, _, variant_dropout = VARIANTS[config.variant]
        width = 1.0 if config.is_lite else config.width or variant_width
        self.dropout = variant_dropout if config.dropout is None else config.dropout
        if not config.num_classes:  # it stands before the classifier
            self.dropout = 0.0
        head = round_filters(1280, width)
        self.head = Pointwise(self.blocks[-1].project_norm.scale.shape[0], head, rngs)
        self.head_norm = BatchNorm(head, config.batch_norm_momentum)
        dense = partial(nnx.Linear, dtype=dtype, kernel_init=_dense_init, rngs=rngs)
        self.classifier = dense(head, config.num_classes) if config.num_classes else None
        self.num_features = config.num_classes or head

    def vector(
        self, images: Num[Array, "batch height width 3"], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """Image vectors of the computation's dtype: the classifier's logits, or the pooled features without one.

        Args:
            images, train, key: as of `maps`.

        Raises:
            ValueError: in training without a key where a rate is above 0.
        """
        rate = self.config.drop_connect
        if train and key is None and (rate or self.dropout):
            raise ValueError(f"training with dropout {self.dropout} and drop-connect {rate} needs a key")
        return self.vector_of(self.maps(images, train=train, key=key), train=train, key=key)

    def vector_of(
        self, maps: Mapping[int, Maps], *, train: bool = False, key: jax.Array | None = None
    ) -> Float[Array, "batch features"]:
        """What `vector` makes of the feature maps that `maps` gave."""
        x = maps[max(maps)].mean((1, 2), dtype=jnp.float32).astype(self.dtype)
        if self.classifier is None:
            return x
        if train and key is not None and self.dropout:
            kept = jax.random.bernoulli(jax.random.fold_in(key, len(self.blocks)), 1 - self.dropout, x.shape)
            x = jnp.where(kept, x / (1 - self.dropout), 0)
        return self.classifier(x)

    @property
    def _last_norms(self) -> list[BatchNorm]:
        return [*super()._last_norms, self.head_norm]

    @property
    def _strides(self) -> list[int]:
        before = super()._strides
        return [*before, before[-1]]

    def _layers(self, train: bool, key: jax.Array | None) -> list[Callable[[Array], Array]]:
        def head(x: Array) -> Array:
            return self.activation(self.head_norm(self.head(x), self._uses_batch(train)))

        return [*super()._layers(train, key), head]
