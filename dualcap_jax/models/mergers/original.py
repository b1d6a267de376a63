"""The original's mergers: the main one, that of its further work, and its two recurrent trials."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dualcap_jax.models.mergers.merger import (
    PUBLISHED_HIDDEN,
    Bottleneck,
    Hidden,
    Linear,
    Merged,
    MergerConfig,
    MergerState,
    Positions,
    Vector,
    VectorMerger,
    like,
)


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


class SkipMLP(VectorMerger):
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
        return self.merged(image, hidden, positions), state

    def merged(self, image: Vector, hidden: Hidden, positions: Positions, *read: Hidden) -> Hidden:
        """The merged hidden states; `read` is what else the first unit sees beside them, and what is added to them."""
        seen = self.first.encoder.joint(image, jnp.concatenate([hidden, *read], -1) if read else hidden)
        hidden = sum(read, hidden) + self.first(seen, (), positions.numbered(1))[0]
        return hidden + self.second(self.second.encoder(hidden), (), positions.numbered(2))[0]


class TwoStream(VectorMerger):
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
        seen, text = seen + like(image, hidden), text + hidden
        both = jnp.concatenate([seen, text], -1)
        out, third = self.last(self.last.encoder(both), state[2], positions)
        return out + (text if self.recurrent else hidden), (first, second, third)


class GRU(VectorMerger):
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
