"""What all mergers have: their configuration, the protocol, and the layers they are made of."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types
from dualcap_jax.models.encoders import Encoded
from dualcap_jax.ops.dense import dense
from dualcap_jax.ops.dropout import dropout

Image = Any
"""What a merger reads of images: a pytree, each leaf [batch, ...]. Of most it is the vector, [batch, features]."""

MergerState = Any
"""What a merger carries from position to position: a pytree, each leaf [batch, captions, ...]."""

PUBLISHED_HIDDEN = {
    "skip_mlp": (384, 256),
    "two_stream": (384, 384, 512),
    "gru_two_stream": (256, 256, 384),
    "gru": (384, 384),
    "attention": (384, 256),
}


@dataclass(frozen=True)
class MergerConfig:
    """Which merger, and its widths."""

    kind: Literal["skip_mlp", "two_stream", "gru_two_stream", "gru", "attention"] = "skip_mlp"
    """How image and sentence are joined. skip_mlp: the original's main merger. two_stream: the one of its further
    work. gru_two_stream, gru: its recurrent trials. attention: each hidden state asks the encoder's feature maps, then
    skip_mlp."""
    hidden: tuple[int, ...] = ()
    """Hidden widths, one for each hidden layer. Empty: the original's (skip_mlp and attention 384 256, two_stream 384
    384 512, gru_two_stream 256 256 384, gru 384 384)."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Norm of each hidden layer, for skip_mlp, two_stream and attention. batch: over the captions of the batch, each
    position by itself."""
    positions: int = 36
    """Positions that the batch norm keeps statistics for; at least data.max_length."""
    init_gain: float = 0.1
    """Gain of the initial kernels (Xavier normal), above 0. The original's 0.1 leaves a trained language model
    nearly as it was. Where all three parts start from random weights, 1 lets the image matter sooner."""
    strides: tuple[int, ...] = (32,)
    """Strides, in pixels, of the feature maps that attention asks. 0: the detections of model.encoder.detections."""
    heads: int = 8
    """Heads of attention; must divide model.language.width."""
    rounds: int = 1
    """Times that attention asks, one after the other."""
    grid: int = 7
    """Side of the grid of learnt places of attention; for feature maps of another size they are interpolated."""
    standardize: bool = False
    """Whether attention takes each channel of vector and maps less its mean, over its standard deviation, as the
    training images have them. A frozen encoder's channels differ much in size."""
    dropout: float = 0.0
    """Dropout rate of skip_mlp and attention, in [0, 1): for hidden layers, what is added to the hidden state, and the
    places of feature maps."""

    @property
    def reads(self) -> tuple[int, ...]:
        """Strides of the feature maps that the merger reads; none where it reads the image vector alone."""
        return self.strides if self.kind == "attention" else ()

    @property
    def is_pointwise(self) -> bool:
        """Whether what it makes of a position hangs on nothing of the other positions."""
        return not self.kind.startswith("gru") and self.norm != "batch"

    def __post_init__(self) -> None:
        def check(condition: bool, name: str, accepted: str) -> None:
            require(condition, f"model.merger.{name}", getattr(self, name), accepted)

        check_types(self, "model.merger.")
        expected = len(PUBLISHED_HIDDEN[self.kind])
        fits = len(self.hidden) in (0, expected) and all(width >= 1 for width in self.hidden)
        check(fits, "hidden", f"{self.kind} takes {expected} widths of at least 1, or none for the original's")
        same = self.kind != "gru" or len(set(self.hidden)) <= 1
        check(same, "hidden", "the two layers of gru have one width")
        check(self.norm == "none" or not self.kind.startswith("gru"), "norm", f"{self.kind} has no norm; use none")
        check(self.positions >= 1, "positions", "must be at least 1")
        check(0 < self.init_gain < math.inf, "init_gain", "must be more than 0")
        several = len(set(self.strides)) == len(self.strides) > 0 and min(self.strides) >= 0
        check(several, "strides", "must be at least one, each of them once")
        for name in ("heads", "rounds", "grid"):
            check(getattr(self, name) >= 1, name, "must be at least 1")
        check(0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        check(self.kind == "attention" or not self.standardize, "standardize", f"{self.kind} can't; use False")
        has_dropout = self.kind in ("skip_mlp", "attention") or not self.dropout
        check(has_dropout, "dropout", f"{self.kind} has no dropout; use 0")


class Linear(nnx.Module):
    """A dense layer initialised as the original's: Xavier normal with a gain, biases as torch's."""

    def __init__(self, inputs: int, outputs: int, *, gain: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        xavier = nnx.initializers.variance_scaling(gain**2, "fan_avg", "normal")
        self.kernel = nnx.Param(xavier(rngs.params(), (inputs, outputs)))
        self.bias = nnx.Param(jax.random.uniform(rngs.params(), (outputs,), minval=-1, maxval=1) / inputs**0.5)

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """x @ kernel + bias."""
        return dense(x.astype(self.dtype), self.kernel[...].astype(self.dtype), 0) + self.bias[...].astype(self.dtype)

    def joint(
        self, image: Float[Array, "batch features"], hidden: Float[Array, "batch ... width"]
    ) -> Float[Array, "batch ... outputs"]:
        """The layer on [image, hidden] with the image repeated, its share computed once per image."""
        of_image, of_hidden = jnp.split(self.kernel[...].astype(self.dtype), [image.shape[-1]])
        seen = dense(image.astype(self.dtype), of_image, 0) + self.bias[...].astype(self.dtype)
        return dense(hidden.astype(self.dtype), of_hidden, 0) + like(seen, hidden)


def like(
    image: Float[Array, "batch features"], hidden: Float[Array, "batch ... width"]
) -> Float[Array, "batch ... features"]:
    """[batch, features] -> [batch, 1, ..., features], to broadcast over captions and positions."""
    return image.reshape(image.shape[0], *(1,) * (hidden.ndim - 2), -1)


Vector = Float[Array, "batch features"]
Hidden = Float[Array, "batch captions length width"]
Merged = tuple[Hidden, MergerState]


@dataclass(frozen=True)
class Positions:
    """The positions that a merger is given."""

    mask: Bool[Array, "batch captions length"] | None = None
    """True on real tokens; read in training alone."""
    train: bool = False
    """Whether batch statistics are used and learnt."""
    start: int | Int[Array, ""] = 0
    """Number of the first position."""
    key: jax.Array | None = None
    """For dropout; None turns it off."""

    def numbered(self, number: int) -> "Positions":
        """The same for one of several units, with dropout of its own."""
        return self if self.key is None else replace(self, key=jax.random.fold_in(self.key, number))


@runtime_checkable
class Merger(Protocol):
    """Where image and sentence meet, after the last layers of both backbones.

    It takes what it reads of the image and the language model's hidden states, and returns hidden states of the same
    shape, keeping a skip connection from these. It is causal: a position sees the image, and hidden states up to its
    own.
    """

    def look(self, encoded: Encoded, train: bool = False, key: jax.Array | None = None) -> Image:
        """What it reads of images, made once for all captions and all positions.

        Args:
            encoded: the images.
            train: learn batch statistics.
            key: for dropout; None turns it off.
        """

    def init_state(self, batch: int, captions: int) -> MergerState:
        """The state before the first position."""

    def __call__(self, image: Image, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """Merge some positions of each caption; return the merged hidden states and the state after them."""


class VectorMerger(nnx.Module):
    """A merger that reads nothing of an image but its vector."""

    def look(self, encoded: Encoded, train: bool = False, key: jax.Array | None = None) -> Vector:
        """The vector."""
        return encoded.vector


class PositionBatchNorm(nnx.Module):
    """Batch norm with statistics of its own for each position.

    Statistics over batch and time together would carry later positions into earlier ones (the original
    dropped batch norm for that); here a position is normalised over the batch's captions alone. In
    training the statistics are those of the real tokens; a position with fewer than two of them takes the
    running ones.
    """

    def __init__(self, positions: int, width: int, *, dtype: DTypeLike):
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.mean = nnx.BatchStat(jnp.zeros((positions, width)))
        self.var = nnx.BatchStat(jnp.ones((positions, width)))

    def __call__(
        self, x: Float[Array, "batch captions length width"], positions: Positions
    ) -> Float[Array, "batch captions length width"]:
        """Normalise; in training, update the running statistics (momentum 0.1, as torch's)."""
        length = x.shape[-2]
        x = x.astype(jnp.float32)
        mean = jax.lax.dynamic_slice_in_dim(self.mean[...], positions.start, length)
        var = jax.lax.dynamic_slice_in_dim(self.var[...], positions.start, length)
        if positions.train and positions.mask is not None:
            weight = positions.mask[..., None].astype(jnp.float32)
            count = weight.sum((0, 1))  # [length, 1]
            batch_mean = (x * weight).sum((0, 1)) / jnp.maximum(count, 1)
            batch_var = ((x - batch_mean) ** 2 * weight).sum((0, 1)) / jnp.maximum(count, 1)
            unbiased = batch_var * count / jnp.maximum(count - 1, 1)
            momentum = jnp.where(count >= 2, 0.1, 0.0)
            new_mean, new_var = jax.lax.stop_gradient((momentum * (batch_mean - mean), momentum * (unbiased - var)))
            self.mean[...] = self.mean[...].at[:length].add(new_mean)
            self.var[...] = self.var[...].at[:length].add(new_var)
            mean, var = jnp.where(count >= 2, batch_mean, mean), jnp.where(count >= 2, batch_var, var)
        y = (x - mean) * jax.lax.rsqrt(var + 1e-5) * self.scale[...] + self.bias[...]
        return y.astype(self.dtype)


def make_norm(
    config: MergerConfig, width: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm | PositionBatchNorm | None:
    """The norm of a hidden layer, if any."""
    if config.norm == "layer":
        return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)
    return PositionBatchNorm(config.positions, width, dtype=dtype) if config.norm == "batch" else None


class Bottleneck(nnx.Module):
    """The MLP unit of a merger: decoder(relu(norm(encoder(x))))."""

    def __init__(self, config: MergerConfig, inputs: int, hidden: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.encoder = Linear(inputs, hidden, gain=config.init_gain, dtype=dtype, rngs=rngs)
        self.norm = make_norm(config, hidden, dtype, rngs)
        self.decoder = Linear(hidden, outputs, gain=config.init_gain, dtype=dtype, rngs=rngs)
        self.rate = config.dropout

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Nothing is remembered between positions."""
        return ()

    def __call__(
        self, encoded: Float[Array, "batch captions length hidden"], state: MergerState, positions: Positions
    ) -> tuple[Float[Array, "batch captions length outputs"], MergerState]:
        """From the encoder's output on."""
        hidden_key, output_key = (None, None) if positions.key is None else jax.random.split(positions.key)
        if isinstance(self.norm, PositionBatchNorm):
            encoded = self.norm(encoded, positions)
        elif self.norm is not None:
            encoded = self.norm(encoded)
        hidden = dropout(jax.nn.relu(encoded), self.rate, hidden_key)
        return dropout(self.decoder(hidden), self.rate, output_key), state
