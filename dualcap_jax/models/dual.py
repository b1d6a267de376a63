"""The captioner's network: an image encoder and a language model that meet in the merger."""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.models.dense import dense_rows
from dualcap_jax.models.efficientnet import EfficientNet, EfficientNetConfig
from dualcap_jax.models.gpt2 import FlaxGPT2Model, GPT2Config
from dualcap_jax.models.mergers import KINDS, Merger, MergerConfig, merge, merge_step
from dualcap_jax.models.rows import eighths, smallest_that_holds

Part = Literal["encoder", "language", "merger"]
"""The three parts, which are also the top-level names of the parameters."""


@dataclass(frozen=True)
class ModelConfig:
    """The whole network; the defaults are the small one of the embedded run."""

    encoder: EfficientNetConfig = field(
        default_factory=lambda: EfficientNetConfig(
            variant="b0",
            width=0.5,
            depth=0.5,
            num_classes=256,
            dropout=0.0,
            drop_connect=0.0,
            batch_norm_momentum=0.95,
        )
    )
    """The image encoder."""
    language: GPT2Config = field(
        default_factory=lambda: GPT2Config(
            vocab_size=512, max_positions=64, width=96, layers=2, heads=4, dropout=0.0, init_deviation=0.1
        )
    )
    """The language model."""
    merger: MergerConfig = field(default_factory=lambda: MergerConfig(hidden=(256, 128), positions=64, init_gain=1.0))
    """What joins the two."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the computation; parameters, norms, softmax, loss and statistics stay float32. float16 trains with
    dynamic loss scaling; the 16-bit kinds are for accelerators (on CPU they are slower)."""


class DualCaptioner(nnx.Module):
    """EfficientNet and GPT-2 joined after their last layers; logits tied to the token embedding.

    Args:
        config: shape of the network.
        rngs: gives the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.encoder = EfficientNet(config.encoder, dtype=dtype, rngs=rngs)
        self.language = FlaxGPT2Model(config.language, dtype=dtype, rngs=rngs)
        self.merger: Merger = KINDS[config.merger.kind](
            config.merger, self.encoder.num_features, config.language.width, dtype=dtype, rngs=rngs
        )
        self.image_mean = nnx.BatchStat(jnp.zeros(self.encoder.num_features))

    def __call__(
        self,
        images: Array,
        tokens: Int[Array, "batch captions length"],
        mask: Bool[Array, "batch captions length"],
        *,
        train: bool = False,
        key: jax.Array | None = None,
        frozen: Collection[Part] = (),
    ) -> Float[Array, "batch captions length vocab"]:
        """Next-token logits, float32, of every position of every caption.

        Args:
            images: uint8 [batch, height, width, 3] RGB (or float, already normalised).
            tokens: several captions per image share its one encoding.
            mask: True on real tokens.
            train: dropout and drop-connect on, batch statistics used and updated.
            key: for dropout and drop-connect; needed in training when a rate is above 0.
            frozen: parts that run as in evaluation even in training.
        """
        encoder_key, language_key = (None, None) if key is None else jax.random.split(key)
        image = self.encoder(images, train=train and "encoder" not in frozen, key=encoder_key)
        if train:  # what an average picture looks like, to tell what a picture adds
            self.image_mean[...] = 0.99 * self.image_mean[...] + 0.01 * jax.lax.stop_gradient(image).mean(
                0, jnp.float32
            )
        hidden = self._hidden(tokens, mask, language_key if train and "language" not in frozen else None)
        merged = merge(self.merger, image, hidden, mask, train and "merger" not in frozen)
        return self._logits(merged)

    def blind_logits(
        self, tokens: Int[Array, "batch captions length"], mask: Bool[Array, "batch captions length"]
    ) -> tuple[Float[Array, "batch captions length vocab"], Float[Array, "batch captions length vocab"]]:
        """Next-token logits, float32, without a picture: with the average of those trained on; without the merger."""
        hidden = self._hidden(tokens, mask)
        image = jnp.broadcast_to(self.image_mean[...].astype(hidden.dtype), (len(tokens), self.encoder.num_features))
        return self._logits(merge(self.merger, image, hidden, mask)), self._logits(hidden)

    def logits(
        self,
        image: Float[Array, "batch features"],
        tokens: Int[Array, "batch captions length"],
        mask: Bool[Array, "batch captions length"],
    ) -> Float[Array, "batch captions length vocab"]:
        """Next-token logits, float32, of every position of every caption, of image vectors that `encode` gave."""
        return self._logits(merge(self.merger, image, self._hidden(tokens, mask), mask))

    def _hidden(self, tokens, mask, key: jax.Array | None = None) -> Float[Array, "batch captions length width"]:
        batch, captions, length = tokens.shape
        hidden = self.language(
            tokens.reshape(-1, length),  # [batch * captions, length]
            mask.reshape(-1, length),
            key,
        )
        return hidden.reshape(batch, captions, length, -1)

    def _logits(self, hidden: Float[Array, "... width"]) -> Float[Array, "... vocab"]:
        embedding = self.language.token_embedding[...].astype(hidden.dtype)
        return jnp.einsum("...w,vw->...v", hidden, embedding, preferred_element_type=jnp.float32)

    def encode(self, images: Array) -> Float[Array, "batch features"]:
        """Image vectors as `next_logits` reads them."""
        return self.encoder(images)

    def init_cache(self, batch: int, beams: int, length: int) -> Any:
        """What decoding carries from token to token: GPT-2's keys and values, the merger's state."""
        return {"language": self.language.init_cache(batch, beams, length), "merger": self.merger.init_state(batch, 1)}

    @staticmethod
    def reorder_cache(cache: Any, ancestors: Int[Array, "batch beams"]) -> Any:
        """The cache of beams that go on from those numbered in `ancestors`."""

        def take(leaf):
            return jnp.take_along_axis(leaf, ancestors[:, :, None], axis=1)

        language = FlaxGPT2Model.reorder_cache(cache["language"], ancestors)
        return {"language": language, "merger": jax.tree.map(take, cache["merger"])}

    def next_logits(
        self,
        tokens: Int[Array, "batch beams"],
        position: Int[Array, ""],
        cache: Any,
        image: Float[Array, "batch features"],
    ) -> tuple[Float[Array, "batch beams vocab"], Any]:
        """Feed one more token per beam at `position`; return the logits of the next and the cache.

        An image all of whose tokens are below 0 is done: its logits mean nothing.
        """
        hidden, language = self.language.step(tokens, position, cache["language"])
        is_live = (tokens >= 0).any(1)
        order = jnp.argsort(~is_live)  # the live ones first

        def run(size: int):
            if size == len(tokens):
                return self._merged_logits(image, hidden, position, cache["merger"])
            some = order[:size]
            state = jax.tree.map(lambda leaf: leaf[some], cache["merger"])
            some_logits, state = self._merged_logits(image[some], hidden[some], position, state)
            logits = jnp.zeros((*tokens.shape, self.config.language.vocab_size)).at[some].set(some_logits)
            return logits, jax.tree.map(lambda all, new: all.at[some].set(new), cache["merger"], state)

        logits, merger = smallest_that_holds(is_live.sum(), eighths(len(tokens)), run)
        return logits, {"language": language, "merger": merger}

    def _merged_logits(self, image, hidden: Float[Array, "batch beams width"], position, state):
        """Of one more token of each beam, and the merger's state after it."""
        merged, state = merge_step(self.merger, image, hidden, position, state)
        embedding = self.language.token_embedding[...].astype(hidden.dtype)
        logits = dense_rows(merged.reshape(-1, merged.shape[-1]), embedding, jnp.float32, most=32)
        return logits.reshape(*merged.shape[:2], -1), state
