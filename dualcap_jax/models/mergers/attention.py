"""A merger that looks: each hidden state asks the image's feature maps what it needs for the next word."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dualcap_jax.models.encoders import Encoded
from dualcap_jax.models.mergers.merger import Hidden, Linear, Merged, MergerConfig, MergerState, Positions, Vector
from dualcap_jax.models.mergers.original import SkipMLP
from dualcap_jax.ops.dropout import dropout

POSITION_DEVIATION = 0.1
"""Standard deviation of the initial learnt places, beside features of deviation 1."""

Keys = Float[Array, "batch heads places features"]


class Sight(NamedTuple):
    """What is read of images."""

    vector: Vector
    """Their vectors."""
    keys: tuple[Keys, ...]
    """Of each round."""
    values: tuple[Keys, ...]
    """Of each round."""


class Places(nnx.Module):
    """The places of the feature maps of one stride: their features projected and normalised, and where they are."""

    def __init__(self, config: MergerConfig, channels: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.project = Linear(channels, width, gain=1.0, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)
        grid = config.grid, config.grid, width
        self.positions = nnx.Param(POSITION_DEVIATION * jax.random.normal(rngs.params(), grid))

    def __call__(self, maps: Float[Array, "batch height width channels"]) -> Float[Array, "batch places features"]:
        """Row by row."""
        positions = jax.image.resize(self.positions[...], (*maps.shape[1:3], self.positions.shape[-1]), "linear")
        places = self.norm(self.project(maps)) + positions.astype(maps.dtype)
        return places.reshape(len(places), -1, places.shape[-1])


class Ask(nnx.Module):
    """One round: multi-head attention from hidden states to places."""

    def __init__(self, config: MergerConfig, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads, self.rate = config.heads, config.dropout
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)
        self.query, self.key, self.value = (Linear(width, width, gain=1.0, dtype=dtype, rngs=rngs) for _ in range(3))
        self.project = Linear(width, width, gain=config.init_gain, dtype=dtype, rngs=rngs)

    def _split(self, x: Float[Array, "batch rows width"]) -> Float[Array, "batch heads rows features"]:
        return x.reshape(*x.shape[:2], self.heads, -1).swapaxes(1, 2)

    def look(self, places: Float[Array, "batch places width"]) -> tuple[Keys, Keys]:
        """The keys and values of places."""
        return self._split(self.key(places)), self._split(self.value(places))

    def weights(self, hidden: Hidden, keys: Keys) -> Float[Array, "batch heads rows places"]:
        """How much each hidden state, captions side by side, heeds each place; float32, 1 in sum."""
        rows = self.norm(hidden).reshape(len(hidden), -1, hidden.shape[-1])
        queries = self._split(self.query(rows))
        scores = jnp.einsum("bhrf,bhpf->bhrp", queries, keys, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores / queries.shape[-1] ** 0.5)

    def __call__(self, hidden: Hidden, keys: Keys, values: Keys, key: jax.Array | None) -> Hidden:
        """What the hidden states read."""
        weights_key, read_key = (None, None) if key is None else jax.random.split(key)
        weights = dropout(self.weights(hidden, keys).astype(values.dtype), self.rate, weights_key)
        read = (weights @ values).swapaxes(1, 2).reshape(hidden.shape)
        return dropout(self.project(read), self.rate, read_key)


class Attention(nnx.Module):
    """h0 = h + what h reads of the feature maps, round by round; then the original's `SkipMLP` of [image, h0]."""

    def __init__(
        self,
        config: MergerConfig,
        features: int,
        width: int,
        *,
        channels: tuple[int, ...],
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        """`channels`: of the feature maps of each of `config.strides`."""
        self.strides = config.strides
        self.places = nnx.List([Places(config, count, width, dtype=dtype, rngs=rngs) for count in channels])
        self.rounds = nnx.List([Ask(config, width, dtype=dtype, rngs=rngs) for _ in range(config.rounds)])
        self.mlp = SkipMLP(config, features, width, dtype=dtype, rngs=rngs)

    def look(self, encoded: Encoded) -> Sight:
        """The vector, and the keys and values of all places."""
        each = [places(encoded.maps[stride]) for places, stride in zip(self.places, self.strides, strict=True)]
        places = jnp.concatenate(each, 1)
        keys, values = zip(*(ask.look(places) for ask in self.rounds), strict=True)
        return Sight(encoded.vector, keys, values)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Nothing is remembered between positions."""
        return ()

    def __call__(self, image: Sight, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """See `Merger`."""
        for number, (ask, keys, values) in enumerate(zip(self.rounds, image.keys, image.values, strict=True)):
            hidden += ask(hidden, keys, values, positions.numbered(3 + number).key)
        return self.mlp(image.vector, hidden, state, positions)

    def weights(self, image: Sight, hidden: Hidden) -> Float[Array, "batch captions length places"]:
        """How much each position heeds each place, stride by stride and row by row: the mean of rounds and heads."""
        found = []
        for ask, keys, values in zip(self.rounds, image.keys, image.values, strict=True):
            found.append(ask.weights(hidden, keys).mean(1))
            hidden += ask(hidden, keys, values, None)
        return jnp.stack(found).mean(0).reshape(*hidden.shape[:3], -1)
