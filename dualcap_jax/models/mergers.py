"""Mergers: where the image meets the sentence, after the last layers of both backbones.

Each takes the image vector and the language model's hidden states and returns hidden states of the same shape, keeping
a skip connection from these. All are causal: position t sees the image and hidden states up to t.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types
from dualcap_jax.ops.dense import dense

MergerState = Any
"""What a merger carries from position to position: a pytree, each leaf [batch, captions, ...]."""

PUBLISHED_HIDDEN = {
    "skip_mlp": (384, 256),
    "two_stream": (384, 384, 512),
    "gru_two_stream": (256, 256, 384),
    "gru": (384, 384),
}


@dataclass(frozen=True)
class MergerConfig:
    """Which merger, and its widths."""

    kind: Literal["skip_mlp", "two_stream", "gru_two_stream", "gru"] = "skip_mlp"
    """How image and sentence are joined. skip_mlp: the original's main merger. two_stream: the one of its further
    work. gru_two_stream, gru: its recurrent trials."""
    hidden: tuple[int, ...] = ()
    """Hidden widths, one for each hidden layer. Empty: the original's (skip_mlp 384 256, two_stream 384 384 512,
    gru_two_stream 256 256 384, gru 384 384)."""
    norm: Literal["none", "layer", "batch"] = "none"
    """Norm of each hidden layer, for skip_mlp and two_stream. batch: over the captions of the batch, each position
    by itself."""
    positions: int = 36
    """Positions that the batch norm keeps statistics for; at least data.max_length."""
    init_gain: float = 0.1
    """Gain of the initial kernels (Xavier normal), above 0. The original's 0.1 leaves a trained language model
    nearly as it was. Where all three parts start from random weights, 1 lets the image matter sooner."""

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
        return dense(hidden.astype(self.dtype), of_hidden, 0) + _like(seen, hidden)


def _like(
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


@runtime_checkable
class Merger(Protocol):
    """Where image and sentence meet. Causal: a position sees the image, and hidden states up to its own."""

    def init_state(self, batch: int, captions: int) -> MergerState:
        """The state before the first position."""

    def __call__(self, image: Vector, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """Merge some positions of each caption; return the merged hidden states and the state after them."""


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


def _make_norm(
    config: MergerConfig, width: int, dtype: DTypeLike, rngs: nnx.Rngs
) -> nnx.LayerNorm | PositionBatchNorm | None:
    if config.norm == "layer":
        return nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)
    return PositionBatchNorm(config.positions, width, dtype=dtype) if config.norm == "batch" else None


class Bottleneck(nnx.Module):
    """The MLP unit of a merger: decoder(relu(norm(encoder(x))))."""

    def __init__(self, config: MergerConfig, inputs: int, hidden: int, outputs: int, dtype: DTypeLike, rngs: nnx.Rngs):
        self.encoder = Linear(inputs, hidden, gain=config.init_gain, dtype=dtype, rngs=rngs)
        self.norm = _make_norm(config, hidden, dtype, rngs)
        self.decoder = Linear(hidden, outputs, gain=config.init_gain, dtype=dtype, rngs=rngs)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Nothing is remembered between positions."""
        return ()

    def __call__(
        self, encoded: Float[Array, "batch captions length hidden"], state: MergerState, positions: Positions
    ) -> tuple[Float[Array, "batch captions length outputs"], MergerState]:
        """From the encoder's output on."""
        if isinstance(self.norm, PositionBatchNorm):
            encoded = self.norm(encoded, positions)
        elif self.norm is not None:
            encoded = self.norm(encoded)
        return self.decoder(jax.nn.relu(encoded)), state


class GRUUnit(nnx.Module):
    """The recurrent unit of a merger, decoder(GRU(x)), or the GRU alone; torch's GRU equations."""

    def __init__(
        self, config: MergerConfig, inputs: int, hidden: int, outputs: int | None, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.hidden = hidden
        self.encoder = Linear(inputs, 3 * hidden, gain=config.init_gain, dtype=dtype, rngs=rngs)
        self.recurrent = Linear(hidden, 3 * hidden, gain=config.init_gain, dtype=dtype, rngs=rngs)
        self.decoder = outputs and Linear(hidden, outputs, gain=config.init_gain, dtype=dtype, rngs=rngs)

    def init_state(self, batch: int, captions: int) -> Float[Array, "batch captions hidden"]:
        """The state before the first position, float32 [batch, captions, hidden]."""
        return jnp.zeros((batch, captions, self.hidden))

    def __call__(
        self, encoded: Float[Array, "batch captions length gates"], state: MergerState, positions: Positions
    ) -> tuple[Float[Array, "batch captions length outputs"], MergerState]:
        """From the encoder's output on: the three gates' inputs side by side."""

        def step(carry: Array, gates: Array) -> tuple[Array, Array]:
            reset, update, new = jnp.split(gates.astype(jnp.float32), 3, -1)
            r, z, n = jnp.split(self.recurrent(carry).astype(jnp.float32), 3, -1)
            z = jax.nn.sigmoid(update + z)
            n = jnp.tanh(new + jax.nn.sigmoid(reset + r) * n)
            carry = (1 - z) * n + z * carry
            return carry, carry

        state, outputs = jax.lax.scan(step, state, jnp.moveaxis(encoded, 2, 0))  # over the positions
        outputs = jnp.moveaxis(outputs, 0, 2).astype(encoded.dtype)
        return (self.decoder(outputs) if self.decoder else outputs), state


class SkipMLP(nnx.Module):
    """The original's merger: h1 = W2 relu(W1 [image, h]) + h; out = W4 relu(W3 h1) + h1."""

    def __init__(self, config: MergerConfig, features: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        first, second = config.hidden or PUBLISHED_HIDDEN[config.kind]
        self.first = Bottleneck(config, features + width, first, width, dtype, rngs)
        self.second = Bottleneck(config, width, second, width, dtype, rngs)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Nothing is remembered between positions."""
        return ()

    def __call__(self, image: Vector, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """See `Merger`."""
        hidden += self.first(self.first.encoder.joint(image, hidden), (), positions)[0]
        hidden += self.second(self.second.encoder(hidden), (), positions)[0]
        return hidden, state


class TwoStream(nnx.Module):
    """The report's further-work merger, and its recurrent trial.

    With z = [image, h]: e = De relu(norm(Ee z)) + image, t = Dt relu(norm(Et z)) + h and
    out = D relu(norm(E [e, t])) + h. (The notebook feeds z to E by a slip; this is the figure's.) As
    gru_two_stream the three encoder layers are GRUs, and the last skip is from t.
    """

    def __init__(self, config: MergerConfig, features: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.recurrent = config.kind == "gru_two_stream"
        unit = GRUUnit if self.recurrent else Bottleneck
        image, text, last = config.hidden or PUBLISHED_HIDDEN[config.kind]
        both = features + width
        self.image_stream = unit(config, both, image, features, dtype, rngs)
        self.text_stream = unit(config, both, text, width, dtype, rngs)
        self.last = unit(config, both, last, width, dtype, rngs)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Of the three units."""
        return tuple(unit.init_state(batch, captions) for unit in (self.image_stream, self.text_stream, self.last))

    def __call__(self, image: Vector, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """See `Merger`."""
        seen, first = self.image_stream(self.image_stream.encoder.joint(image, hidden), state[0], positions)
        text, second = self.text_stream(self.text_stream.encoder.joint(image, hidden), state[1], positions)
        seen, text = seen + _like(image, hidden), text + hidden
        both = jnp.concatenate([seen, text], -1)
        out, third = self.last(self.last.encoder(both), state[2], positions)
        return out + (text if self.recurrent else hidden), (first, second, third)


class GRU(nnx.Module):
    """The original's other recurrent trial: out = D GRU(GRU([image, h])) + h."""

    def __init__(self, config: MergerConfig, features: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        first, second = config.hidden or PUBLISHED_HIDDEN[config.kind]
        self.first = GRUUnit(config, features + width, first, None, dtype, rngs)
        self.second = GRUUnit(config, first, second, width, dtype, rngs)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Of the two layers."""
        return self.first.init_state(batch, captions), self.second.init_state(batch, captions)

    def __call__(self, image: Vector, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """See `Merger`."""
        x, first = self.first(self.first.encoder.joint(image, hidden), state[0], positions)
        x, second = self.second(self.second.encoder(x), state[1], positions)
        return x + hidden, (first, second)


KINDS: dict[str, Callable[..., Merger]] = {
    "skip_mlp": SkipMLP,
    "two_stream": TwoStream,
    "gru_two_stream": TwoStream,
    "gru": GRU,
}


def merge(
    merger: Merger,
    image: Float[Array, "batch features"],
    hidden: Float[Array, "batch captions length width"],
    mask: Bool[Array, "batch captions length"],
    train: bool = False,
) -> Float[Array, "batch captions length width"]:
    """Merge whole captions.

    Args:
        merger: any of `KINDS`.
        image: one vector per image, shared by its captions.
        hidden: the language model's hidden states.
        mask: True on real tokens (read by batch norm in training alone).
        train: use and update batch statistics.
    """
    state = merger.init_state(*hidden.shape[:2])
    return merger(image.astype(hidden.dtype), hidden, state, Positions(mask, train))[0]


def merge_step(
    merger: Merger,
    image: Float[Array, "batch features"],
    hidden: Float[Array, "batch captions width"],
    position: Int[Array, ""],
    state: MergerState,
) -> tuple[Float[Array, "batch captions width"], MergerState]:
    """Merge one more position of each caption, as `merge` would at that position, and the state after it."""
    positions = Positions(start=position)
    merged, state = merger(image.astype(hidden.dtype), hidden[:, :, None], state, positions)
    return merged[:, :, 0], state
