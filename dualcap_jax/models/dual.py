"""The captioner's network: an image encoder and a language model that meet in the merger."""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from dualcap_jax.models.config import ModelConfig, Part
from dualcap_jax.models.encoders import Encoder
from dualcap_jax.models.language_models import LanguageModel
from dualcap_jax.models.mergers import KINDS, Merger, MergerState, merge, merge_step
from dualcap_jax.ops.rows import eighths, smallest_that_holds

Images = Num[Array, "batch height width 3"]
Tokens = Int[Array, "batch captions length"]
Mask = Bool[Array, "batch captions length"]
Logits = Float[Array, "batch captions length vocab"]


class DualCaptioner(nnx.Module):
    """Image encoder and language model, joined after their last layers.

    Args:
        config: shape of the network.
        rngs: gives the initial parameters.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        self.encoder: Encoder = config.encoder.build(dtype=dtype, rngs=rngs)
        self.language: LanguageModel = config.language.build(dtype=dtype, rngs=rngs)
        self.merger: Merger = KINDS[config.merger.kind](
            config.merger, self.encoder.num_features, config.language.width, dtype=dtype, rngs=rngs
        )
        self.image_mean = nnx.BatchStat(jnp.zeros(self.encoder.num_features))

    def __call__(
        self,
        images: Images,
        tokens: Tokens,
        mask: Mask,
        *,
        train: bool = False,
        key: jax.Array | None = None,
        frozen: Collection[Part] = (),
    ) -> Logits:
        """Next-token logits, float32, of every position of every caption.

        Args:
            images: uint8 RGB, or float and already normalised.
            tokens: several captions per image share its one encoding.
            mask: True on real tokens.
            train: use dropout and batch statistics, and learn these.
            key: for what is random in training.
            frozen: parts that run as in evaluation even in training.
        """
        encoder_key, language_key = (None, None) if key is None else jax.random.split(key)
        image = self.encoder.vector(images, train=train and "encoder" not in frozen, key=encoder_key)
        if train:  # what an average image looks like, to tell what an image adds
            batch_mean = jax.lax.stop_gradient(image).mean(0, jnp.float32)
            self.image_mean[...] = 0.99 * self.image_mean[...] + 0.01 * batch_mean
        hidden = self._hidden(tokens, mask, language_key if train and "language" not in frozen else None)
        return self.language.logits(merge(self.merger, image, hidden, mask, train and "merger" not in frozen))

    def encode(self, images: Images) -> Float[Array, "batch features"]:
        """Image vectors as `logits` and `next_logits` take them."""
        return self.encoder.vector(images)

    def logits(self, image: Float[Array, "batch features"], tokens: Tokens, mask: Mask) -> Logits:
        """Next-token logits, float32, of every position of every caption, of encoded images."""
        return self.language.logits(merge(self.merger, image, self._hidden(tokens, mask), mask))

    def blind_logits(self, tokens: Tokens, mask: Mask) -> tuple[Logits, Logits]:
        """Next-token logits, float32, without an image: with the average of those trained on; without the merger."""
        hidden = self._hidden(tokens, mask)
        image = jnp.broadcast_to(self.image_mean[...].astype(hidden.dtype), (len(tokens), self.encoder.num_features))
        return self.language.logits(merge(self.merger, image, hidden, mask)), self.language.logits(hidden)

    def _hidden(
        self, tokens: Tokens, mask: Mask, key: jax.Array | None = None
    ) -> Float[Array, "batch captions length width"]:
        length = tokens.shape[2]
        rows = self.language.hidden(tokens.reshape(-1, length), mask.reshape(-1, length), key)
        return rows.reshape(*tokens.shape, -1)  # [batch * captions, length, width] -> [batch, captions, ...]

    def init_cache(self, batch: int, beams: int, length: int) -> Any:
        """What decoding carries from token to token: the language model's cache, the merger's state."""
        return {"language": self.language.init_cache(batch, beams, length), "merger": self.merger.init_state(batch, 1)}

    def reorder_cache(self, cache: Any, ancestors: Int[Array, "batch beams"]) -> Any:
        """The cache of beams that go on from those numbered in `ancestors`."""

        def take(leaf: Array) -> Array:
            return jnp.take_along_axis(leaf, ancestors[:, :, None], axis=1)

        language = self.language.reorder_cache(cache["language"], ancestors)
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

        def run(size: int) -> tuple[Float[Array, "batch beams vocab"], MergerState]:
            if size == len(tokens):
                return self._merged_logits(image, hidden, position, cache["merger"])
            some = order[:size]
            state = jax.tree.map(lambda leaf: leaf[some], cache["merger"])
            some_logits, state = self._merged_logits(image[some], hidden[some], position, state)
            logits = jnp.zeros((*tokens.shape, self.config.language.vocab_size)).at[some].set(some_logits)
            return logits, jax.tree.map(lambda all, new: all.at[some].set(new), cache["merger"], state)

        logits, merger = smallest_that_holds(is_live.sum(), eighths(len(tokens)), run)
        return logits, {"language": language, "merger": merger}

    def _merged_logits(
        self,
        image: Float[Array, "batch features"],
        hidden: Float[Array, "batch beams width"],
        position: Int[Array, ""],
        state: MergerState,
    ) -> tuple[Float[Array, "batch beams vocab"], MergerState]:
        """Of one more token of each beam, and the merger's state after it."""
        merged, state = merge_step(self.merger, image, hidden, position, state)
        logits = self.language.logits(merged.reshape(-1, merged.shape[-1]))  # [batch * beams, vocab]
        return logits.reshape(*merged.shape[:2], -1), state
