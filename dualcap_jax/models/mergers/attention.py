"""A merger that looks: each hidden state asks the image's feature maps what it needs for the next word."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from dualcap_jax.models.encoders import DETECTIONS, Encoded
from dualcap_jax.models.mergers.merger import Hidden, Linear, Merged, MergerConfig, MergerState, Positions, Vector
from dualcap_jax.models.mergers.original import SkipMLP
from dualcap_jax.ops.dropout import dropout

POSITION_DEVIATION = 0.3
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


class Standardize(nnx.Module):
    """Each channel less its mean, over its standard deviation.

    Both are running averages over the training batches, exact over the first hundred. Training itself uses them, so
    that an image means the same in training as in decoding. With `config.standardize` off nothing is changed.
    """

    def __init__(self, config: MergerConfig, channels: int, floor: float):
        """`floor`: added to the deviation, so that channels that hardly ever speak are not blown up."""
        self.floor, self.applies = floor, config.standardize
        if self.applies:
            self.mean, self.square = nnx.BatchStat(jnp.zeros(channels)), nnx.BatchStat(jnp.ones(channels))
            self.batches = nnx.BatchStat(jnp.zeros(()))

    def __call__(self, x: Float[Array, "*places channels"], train: bool) -> Float[Array, "*places channels"]:
        """Standardise; in training, learn first."""
        if not self.applies:
            return x
        if train:
            seen = jax.lax.stop_gradient(x.astype(jnp.float32))
            rate = jnp.maximum(1 / (1 + self.batches[...]), 0.01)
            for stat, values in ((self.mean, seen), (self.square, seen**2)):
                stat[...] += rate * (values.mean(range(x.ndim - 1)) - stat[...])
            self.batches[...] += 1
        deviation = jnp.sqrt(jnp.maximum(self.square[...] - self.mean[...] ** 2, 0)) + self.floor
        return ((x - self.mean[...]) / deviation).astype(x.dtype)


class Places(nnx.Module):
    """The places of the feature maps of one stride: their features projected and normalised, and where they are.

    Detections are places too, whose features tell where they are.
    """

    def __init__(
        self, config: MergerConfig, stride: int, channels: int, width: int, *, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.standardize = Standardize(config, channels, 0.05)
        self.rate = config.dropout
        self.project = Linear(channels, width, gain=1.0, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-5, dtype=dtype, use_fast_variance=False, rngs=rngs)
        grid = config.grid, config.grid, width
        places = None if stride == DETECTIONS else jax.random.normal(rngs.params(), grid)
        self.positions = None if places is None else nnx.Param(POSITION_DEVIATION * places)

    def __call__(
        self, maps: Float[Array, "batch height width channels"], train: bool, key: jax.Array | None
    ) -> Float[Array, "batch places features"]:
        """Row by row."""
        places = self.norm(self.project(self.standardize(maps, train)))
        if self.positions is not None:
            positions = self.positions[...]
            if positions.shape[:2] != maps.shape[1:3]:
                positions = jax.image.resize(positions, (*maps.shape[1:3], positions.shape[-1]), "linear")
            places += positions.astype(maps.dtype)
        return dropout(places.reshape(places.shape[0], -1, places.shape[-1]), self.rate, key)


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
        rows = self.norm(hidden).reshape(hidden.shape[0], -1, hidden.shape[-1])
        queries = self._split(self.query(rows))
        scores = jnp.einsum("bhrf,bhpf->bhrp", queries, keys, preferred_element_type=jnp.float32)
        return jax.nn.softmax(scores / queries.shape[-1] ** 0.5)

    def __call__(self, hidden: Hidden, keys: Keys, values: Keys, key: jax.Array | None) -> Hidden:
        """What the hidden states read."""
        read = (self.weights(hidden, keys).astype(values.dtype) @ values).swapaxes(1, 2).reshape(hidden.shape)
        return dropout(self.project(read), self.rate, key)


class Attention(nnx.Module):
    """The original's `SkipMLP` after a look: r is what h reads of the feature maps.

    h1 = W2 relu(W1 [image, h, r]) + h + r; out = W4 relu(W3 h1) + h1. Of several rounds, all but the last add what they
    read to h first.
    """

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
        self.standardize = Standardize(config, features, 0.02)
        each = zip(config.strides, channels, strict=True)
        self.places = nnx.List([Places(config, stride, count, width, dtype=dtype, rngs=rngs) for stride, count in each])
        self.rounds = nnx.List([Ask(config, width, dtype=dtype, rngs=rngs) for _ in range(config.rounds)])
        self.mlp = SkipMLP(config, features + width, width, dtype=dtype, rngs=rngs)

    def look(self, encoded: Encoded, train: bool = False, key: jax.Array | None = None) -> Sight:
        """The vector, and the keys and values of all places."""
        some = [None] * len(self.strides) if key is None else jax.random.split(key, len(self.strides))
        each = [
            places(encoded.maps[stride], train, key)
            for places, stride, key in zip(self.places, self.strides, some, strict=True)
        ]
        together = jnp.concatenate(each, 1)
        keys, values = zip(*(ask.look(together) for ask in self.rounds), strict=True)
        return Sight(self.standardize(encoded.vector, train), keys, values)

    def init_state(self, batch: int, captions: int) -> MergerState:
        """Nothing is remembered between positions."""
        return ()

    def __call__(self, image: Sight, hidden: Hidden, state: MergerState, positions: Positions) -> Merged:
        """See `Merger`."""
        for number, (ask, keys, values) in enumerate(zip(self.rounds, image.keys, image.values, strict=True), 1):
            read = ask(hidden, keys, values, positions.numbered(2 + number).key)
            if number < len(self.rounds):
                hidden += read
        return self.mlp.merged(image.vector, hidden, positions, read), state

    def weights(self, image: Sight, hidden: Hidden) -> Float[Array, "batch captions length places"]:
        """How much each position heeds each place, stride by stride and row by row: the mean of rounds and heads."""
        found = []
        for ask, keys, values in zip(self.rounds, image.keys, image.values, strict=True):
            found.append(ask.weights(hidden, keys).mean(1))
            hidden += ask(hidden, keys, values, None)
        return jnp.stack(found).mean(0).reshape(*hidden.shape[:3], -1)
