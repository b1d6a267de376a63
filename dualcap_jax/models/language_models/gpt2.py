"""GPT-2 up to its last hidden state (Radford et al. 2019), as a flax.nnx module.

The arithmetic is that of transformers' `GPT2Model`: pre-norm blocks, GELU, learned positions, LayerNorm with epsilon
1e-5, the logits tied to the token embedding. Cerebras-GPT (Dey et al. 2023) is the same with the exact GELU.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.errors import require
from dualcap_jax.models.language_models import prefix_cache
from dualcap_jax.models.language_models.language_model import LanguageModelConfig
from dualcap_jax.models.language_models.prefix_cache import PrefixCache
from dualcap_jax.models.remat import rematerialised
from dualcap_jax.ops.dense import dense, dense_rows
from dualcap_jax.ops.dropout import dropout

Hidden = Float[Array, "rows length width"]
KeysAndValues = dict[str, Array]
"""`k` and `v` of a layer: [length, rows, width] in the cache, [rows, width] of one position."""

Activation = Literal["gelu_new", "gelu"]

CHUNK = 4
"""Positions of the cache that are attended to at a time: few enough for a processor's cache, and for many beams not to
pay for what is still empty."""


@dataclass(frozen=True)
class GPT2Config(LanguageModelConfig):
    """Shape of the language model; the defaults are GPT-2 small.

    Published: small 768 x 12 layers x 12 heads, medium 1024 x 24 x 16, large 1280 x 36 x 20,
    xl 1600 x 48 x 25, distilgpt2 768 x 6 x 12. Cerebras-GPT, with 2048 positions and gelu: 111M 768 x 10 x 12,
    256M 1088 x 14 x 17, 590M 1536 x 18 x 12, 1.3B 2048 x 24 x 16.
    """

    kind: ClassVar[str] = "gpt2"

    layers: int = 12
    """Number of transformer blocks."""
    heads: int = 12
    """Attention heads per block; must divide the width."""
    activation: Activation = field(default="gelu_new", kw_only=True)
    """Of each block's MLP, by transformers' names. gelu_new: approximated by tanh, as in GPT-2. gelu: exact, as in
    Cerebras-GPT."""
    dropout: float = 0.1
    """Dropout rate for embeddings, attention weights and residual branches, in [0, 1)."""
    init_deviation: float = 0.02
    """Standard deviation of the initial kernels and embeddings, above 0; narrow models learn sooner with more."""
    embedding_scale: float = 1.0
    """Factor on the token embeddings where they enter the blocks (Vaswani et al. 2017), above 0. They are also the
    output layer, and so start small; a language model that starts from random weights learns sooner where its blocks
    see them larger. Published weights are made for 1."""

    def __post_init__(self) -> None:
        def check(condition: bool, name: str, accepted: str) -> None:
            require(condition, f"model.language.{name}", getattr(self, name), accepted)

        super().__post_init__()
        for name in ("layers", "heads"):
            check(getattr(self, name) >= 1, name, "must be at least 1")
        check(self.width % self.heads == 0, "heads", f"must divide model.language.width={self.width}")
        check(0 <= self.dropout < 1, "dropout", "must be in [0, 1)")
        for name in ("init_deviation", "embedding_scale"):
            check(0 < getattr(self, name) < math.inf, name, "must be more than 0")
        published = self.pretrained is None or self.embedding_scale == 1
        check(published, "embedding_scale", "must be 1 with model.language.pretrained")

    def build(self, *, dtype: DTypeLike, rngs: nnx.Rngs) -> "FlaxGPT2Model":
        """GPT-2 with initial parameters."""
        return FlaxGPT2Model(self, dtype=dtype, rngs=rngs)


def _keys(key: jax.Array | None, number: int) -> list[jax.Array | None]:
    return [None] * number if key is None else list(jax.random.split(key, number))


class Linear(nnx.Module):
    """A dense layer whose kernel is [outputs, inputs].

    XLA's CPU product with the few rows of decoding is 1.1 to 1.6 times faster that way than with [inputs, outputs]
    (40 rows, widths 768 and 3072); elsewhere it makes no difference.
    """

    def __init__(self, inputs: int, outputs: int, *, deviation: float, dtype: DTypeLike, rngs: nnx.Rngs):
        self.dtype = dtype
        self.kernel = nnx.Param(deviation * jax.random.normal(rngs.params(), (outputs, inputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))

    def __call__(self, x: Float[Array, "... inputs"]) -> Float[Array, "... outputs"]:
        """x @ kernel.T + bias."""
        x, kernel, bias = x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.bias[...].astype(self.dtype)
        return (dense_rows(x, kernel, self.dtype) if x.ndim == 2 else dense(x, kernel, 1)) + bias


class Attention(nnx.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: GPT2Config, dtype: DTypeLike, rngs: nnx.Rngs):
        self.heads = config.heads
        self.rate = config.dropout
        width, deviation, residual = config.width, config.init_deviation, _residual_deviation(config)
        self.qkv = Linear(width, 3 * width, deviation=deviation, dtype=dtype, rngs=rngs)
        self.project = Linear(width, width, deviation=residual, dtype=dtype, rngs=rngs)

    def _split(self, x: Float[Array, "rows length width"]) -> Float[Array, "3 rows heads length features"]:
        qkv = self.qkv(x)
        qkv = qkv.reshape(*qkv.shape[:2], 3, self.heads, -1)
        return qkv.transpose(2, 0, 3, 1, 4)  # [rows, length, 3, heads, features] before

    def _attend(self, q: Array, k: Array, v: Array, allowed: Array, key: jax.Array | None) -> Array:
        scores = jnp.einsum("bhqd,bhkd->bhqk", q, k, preferred_element_type=jnp.float32)
        scores = jnp.where(allowed, scores / q.shape[-1] ** 0.5, jnp.finfo(jnp.float32).min)
        weights = dropout(jax.nn.softmax(scores).astype(v.dtype), self.rate, key)
        mixed = (weights @ v).swapaxes(1, 2)  # [rows, queries, heads, width // heads]
        return self.project(mixed.reshape(*mixed.shape[:2], -1))

    def __call__(self, x: Hidden, allowed: Bool[Array, "#rows 1 length length"], key: jax.Array | None) -> Hidden:
        """Attend from each position to the `allowed` ones."""
        q, k, v = self._split(x)
        return self._attend(q, k, v, allowed, key)

    def step(
        self,
        x: Float[Array, "rows width"],
        layer: KeysAndValues,
        sources: Int[Array, "rows length"],
        position: Int[Array, ""],
    ) -> tuple[Float[Array, "rows width"], KeysAndValues]:
        """Attend from each row's newest token, at `position`, to itself and to what the cache has before it.

        Returns the attended, and what the cache gets: the newest keys and values, [rows, width].
        """
        q, k, v = jnp.split(self.qkv(x), 3, axis=1)
        newest = {"k": k, "v": v}
        q, k, v = (each.reshape(len(x), self.heads, -1) for each in (q, k, v))
        q = q / q.shape[-1] ** 0.5

        def attend(number: Array, so_far: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            """Take one chunk into the softmax: its greatest score, its sum, its sum of values (Milakov 2018)."""
            most, total, mixed = so_far
            positions = number * CHUNK + jnp.arange(CHUNK)
            written = jax.lax.dynamic_slice_in_dim(sources, number * CHUNK, CHUNK, 1)  # [rows, chunk]
            # [length, rows, width] -> [rows, heads, chunk, width // heads]
            keys, values = (
                layer[name][positions, written].reshape(len(x), CHUNK, self.heads, -1).swapaxes(1, 2) for name in "kv"
            )
            scores = jnp.einsum("rhd,rhpd->rhp", q, keys, preferred_element_type=jnp.float32)
            scores = jnp.where(positions < position, scores, -jnp.inf)
            new = jnp.maximum(most, scores.max(-1, keepdims=True))
            weights, before = jnp.exp(scores - new), jnp.exp(most - new)
            taken = jnp.einsum("rhp,rhpd->rhd", weights.astype(v.dtype), values, preferred_element_type=jnp.float32)
            return new, total * before + weights.sum(-1, keepdims=True), mixed * before + taken

        own = jnp.einsum("rhd,rhd->rh", q, k, preferred_element_type=jnp.float32)[..., None]
        state = own, jnp.ones_like(own), v.astype(jnp.float32)
        state = jax.lax.fori_loop(0, -(-position // CHUNK), attend, state)
        return self.project((state[2] / state[1]).astype(v.dtype).reshape(x.shape)), newest


class Block(nnx.Module):
    """One pre-norm transformer block."""

    def __init__(self, config: GPT2Config, norm: Callable[..., nnx.LayerNorm], dtype: DTypeLike, rngs: nnx.Rngs):
        width, deviation, residual = config.width, config.init_deviation, _residual_deviation(config)
        self.rate, self.has_tanh = config.dropout, config.activation == "gelu_new"
        self.attention_norm = norm(width, rngs=rngs)
        self.attention = Attention(config, dtype, rngs)
        self.mlp_norm = norm(width, rngs=rngs)
        self.mlp_expand = Linear(width, 4 * width, deviation=deviation, dtype=dtype, rngs=rngs)
        self.mlp_project = Linear(4 * width, width, deviation=residual, dtype=dtype, rngs=rngs)

    def feed_forward(self, x: Float[Array, "*rows width"]) -> Float[Array, "*rows width"]:
        """The MLP with its norm, without the skip."""
        return self.mlp_project(jax.nn.gelu(self.mlp_expand(self.mlp_norm(x)), approximate=self.has_tanh))

    def __call__(self, x: Hidden, allowed: Bool[Array, "#rows 1 length length"], key: jax.Array | None) -> Hidden:
        """Attend, then the MLP, each beside a skip."""
        weights_key, attention_key, mlp_key = _keys(key, 3)
        x = x + dropout(self.attention(self.attention_norm(x), allowed, weights_key), self.rate, attention_key)
        return x + dropout(self.feed_forward(x), self.rate, mlp_key)

    def step(
        self,
        x: Float[Array, "rows width"],
        layer: KeysAndValues,
        sources: Int[Array, "rows length"],
        position: Int[Array, ""],
    ) -> tuple[Float[Array, "rows width"], KeysAndValues]:
        """One more token of each row: the same shape, and the keys and values that the cache gets."""
        attended, newest = self.attention.step(self.attention_norm(x), layer, sources, position)
        x = x + attended
        return x + self.feed_forward(x), newest


def _residual_deviation(config: GPT2Config) -> float:
    """GPT-2 scales what is added to the residual stream by its depth."""
    return config.init_deviation / (2 * config.layers) ** 0.5


class FlaxGPT2Model(nnx.Module):
    """GPT-2 without its output layer.

    Args:
        config: shape of the network.
        dtype: of the computation; parameters, norms and softmax stay float32.
        rngs: gives the initial parameters (normal, `init_deviation`).
    """

    def __init__(self, config: GPT2Config, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.config = config
        self.dtype = dtype
        init = nnx.initializers.normal(config.init_deviation)
        norm = partial(nnx.LayerNorm, epsilon=1e-5, dtype=dtype, use_fast_variance=False)
        self.token_embedding = nnx.Param(init(rngs.params(), (config.vocab_size, config.width)))
        self.position_embedding = nnx.Param(init(rngs.params(), (config.max_positions, config.width)))
        self.blocks = nnx.List([Block(config, norm, dtype, rngs) for _ in range(config.layers)])
        self.final_norm = norm(config.width, rngs=rngs)

    def hidden(
        self,
        tokens: Int[Array, "rows length"],
        mask: Bool[Array, "rows length"] | None = None,
        key: jax.Array | None = None,
        *,
        segments: Int[Array, "rows length"] | None = None,
        positions: Int[Array, "rows length"] | None = None,
    ) -> Float[Array, "rows length width"]:
        """Hidden states after the final norm; see `LanguageModel`.

        Raises:
            ValueError: when the sequence is longer than `config.max_positions`.
        """
        length = tokens.shape[1]
        if length > self.config.max_positions:
            raise ValueError(
                f"a sequence of {length} tokens: model.language.max_positions is {self.config.max_positions}"
            )
        embedding_key, *block_keys = _keys(key, 1 + len(self.blocks))
        place = self.position_embedding[...][:length] if positions is None else self.position_embedding[...][positions]
        x = self.config.embedding_scale * self.token_embedding[...][tokens] + place
        x = dropout(x.astype(self.dtype), self.config.dropout, embedding_key)
        allowed = jnp.tril(jnp.ones((length, length), bool))[None, None]
        if mask is not None:
            allowed &= mask[:, None, None, :]  # [rows, 1, 1, keys]
        if segments is not None:
            allowed &= (segments[:, :, None] == segments[:, None, :])[:, None]
        run = rematerialised(Block.__call__, self.config.remat)
        for block, block_key in zip(self.blocks, block_keys, strict=True):
            x = run(block, x, allowed, block_key)
        return self.final_norm(x)

    @property
    def output_embedding(self) -> Float[Array, "vocab width"]:
        """The token embedding, to which the logits are tied."""
        return self.token_embedding[...]

    def logits(self, hidden: Float[Array, "*rows width"]) -> Float[Array, "*rows vocab"]:
        """Next-token logits, float32, tied to the token embedding; [rows, width] is one step of decoding."""
        embedding = self.output_embedding.astype(hidden.dtype)
        if hidden.ndim == 2:
            return dense_rows(hidden, embedding, jnp.float32, most=32)
        return jnp.einsum("...w,vw->...v", hidden, embedding, preferred_element_type=jnp.float32)

    def init_cache(self, batch: int, beams: int, length: int) -> PrefixCache:
        """An empty cache for sequences of up to `length` tokens: the keys and values of each layer."""
        length = -(-length // CHUNK) * CHUNK
        shape = (length, batch * beams, self.config.width)
        layers = tuple({name: jnp.zeros(shape, self.dtype) for name in "kv"} for _ in self.blocks)
        return prefix_cache.init_cache(batch, length, layers)

    def reorder_cache(self, cache: PrefixCache, ancestors: Int[Array, "batch beams"]) -> PrefixCache:
        """The cache of beams that go on from those numbered in `ancestors`."""
        return prefix_cache.reorder_cache(cache, ancestors)

    def step(
        self, tokens: Int[Array, "batch beams"], position: Int[Array, ""], cache: PrefixCache
    ) -> tuple[Float[Array, "batch beams width"], PrefixCache]:
        """The hidden state of one more token per beam, at `position`, and the cache with it."""

        def compute(
            tokens: Int[Array, " rows"], sources: Int[Array, "rows length"]
        ) -> tuple[Float[Array, "rows width"], Any]:
            x = self.config.embedding_scale * self.token_embedding[...][tokens] + self.position_embedding[...][position]
            x, newest = x.astype(self.dtype), []
            for block, layer in zip(self.blocks, cache.written, strict=True):
                x, written = block.step(x, layer, sources, position)
                newest.append(written)
            return self.final_norm(x), tuple(newest)

        return prefix_cache.step(compute, tokens, position, cache)
