"""The captioner's network: an image encoder and a language model that meet in the merger."""

from collections.abc import Collection
from itertools import accumulate
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Num

from dualcap_jax.errors import require
from dualcap_jax.models.config import ModelConfig, Part
from dualcap_jax.models.encoders import DETECTIONS, Encoded, Encoder, encoded
from dualcap_jax.models.language_models import LanguageModel
from dualcap_jax.models.mergers import KINDS, Attention, Image, Merger, MergerState, merge, merge_step
from dualcap_jax.ops.rows import eighths, rearrange, smallest_that_holds, take

Images = Num[Array, "batch height width 3"]
Tokens = Int[Array, "batch captions length"] | Int[Array, "rows length"]
Mask = Bool[Array, "batch captions length"] | Bool[Array, "rows length"]
Merged = Float[Array, "batch captions length _width"] | Float[Array, "rows length _width"]
Logits = Float[Array, "batch captions length vocab"] | Float[Array, "rows length vocab"]


class Packing(NamedTuple):
    """How captions lie side by side in rows, so that little is computed on padding."""

    segments: Int[Array, "rows length"]
    """Number of the caption in its row, from 1; 0 where there is none."""
    positions: Int[Array, "rows length"]
    """Of the token in its caption."""
    spots: Int[Array, "groups images captions length"]
    """Where the merger finds the tokens of each image, row by row of its group; as many as there are or more: nowhere.
    Of a merger that looks at each position alone all captions of an image may be one. A group's rows hold the captions
    of its images and no others."""
    places: Int[Array, "groups rows length"]
    """Where among its group's `spots` each token is."""


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
        known, wanted = self.encoder.channels, config.merger.reads
        told = f"the encoder's maps have strides {', '.join(str(stride) for stride in known if stride != DETECTIONS)}"
        told += "; for 0, its detections, set model.encoder.detections" * (DETECTIONS in wanted)
        require(known.keys() >= set(wanted), "model.merger.strides", wanted, told)
        channels = tuple(known[stride] for stride in wanted)
        self.merger: Merger = KINDS[config.merger.kind](
            config.merger,
            self.encoder.num_features,
            config.language.width,
            **({"channels": channels} if channels else {}),
            dtype=dtype,
            rngs=rngs,
        )
        self.image_mean = nnx.BatchStat(jnp.zeros(self.encoder.num_features))
        self.map_means = nnx.List([nnx.BatchStat(jnp.zeros(count)) for count in channels])

    def __call__(self, images: Images | Encoded, tokens: Tokens, mask: Mask) -> Logits:
        """Next-token logits, float32, of every position of every caption; arguments as of `merged`."""
        return self.language.logits(self.merged(images, tokens, mask))

    def merged(
        self,
        images: Images | Encoded,
        tokens: Tokens,
        mask: Mask,
        packing: Packing | None = None,
        *,
        train: bool = False,
        key: jax.Array | None = None,
        frozen: Collection[Part] = (),
    ) -> Merged:
        """The merger's hidden states, whose product with the output embedding is the next token's logits.

        Args:
            images: uint8 RGB, or float and already normalised, or already encoded.
            tokens: several captions per image share its one encoding.
            mask: True on real tokens.
            packing: how captions lie side by side in the rows of `tokens`, `mask` and the hidden states, which are
                then [rows, length]. None: each has a row of its own.
            train: use dropout and batch statistics, and learn these.
            key: for what is random in training.
            frozen: parts that run as in evaluation even in training.
        """
        encoder_key, language_key, merger_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        if not isinstance(images, Encoded):
            is_trained = train and "encoder" not in frozen
            images = encoded(self.encoder, images, self.config.merger.reads, train=is_trained, key=encoder_key)
        if train:  # what an average image looks like, to tell what an image adds
            self._learn_mean(self.image_mean, images.vector)
            for mean, stride in zip(self.map_means, self.config.merger.reads, strict=True):
                self._learn_mean(mean, images.maps[stride])
        is_trained = train and "merger" not in frozen
        look_key, key = jax.random.split(merger_key) if is_trained and merger_key is not None else (None, None)
        image = self.look(images, is_trained, look_key)
        language_key = language_key if train and "language" not in frozen else None
        if packing is None:
            hidden = self._hidden(tokens, mask, language_key)
            return merge(self.merger, image, hidden, mask, is_trained, key)
        segments, positions, spots, places = packing
        hidden = self.language.hidden(tokens, mask, language_key, segments=segments, positions=positions)
        by_image = rearrange(hidden.reshape(*places.shape, -1), spots, places)
        real = jax.vmap(take)(mask.reshape(len(places), -1), spots)
        by_image, real = (each.reshape(-1, *each.shape[2:]) for each in (by_image, real))
        merged = merge(self.merger, image, by_image, real, is_trained, key)
        return rearrange(merged.reshape(*spots.shape, -1), places, spots).reshape(hidden.shape)

    @staticmethod
    def _learn_mean(mean: nnx.BatchStat, values: Float[Array, "batch ... features"]) -> None:
        batch_mean = jax.lax.stop_gradient(values).mean(range(values.ndim - 1), jnp.float32)
        mean[...] = 0.99 * mean[...] + 0.01 * batch_mean

    def encode(self, images: Images) -> Image:
        """What `merged_with`, `logits` and `next_logits` take of images."""
        return self.look(encoded(self.encoder, images, self.config.merger.reads))

    def look(self, images: Encoded, train: bool = False, key: jax.Array | None = None) -> Image:
        """The same of encoded images; arguments as of the merger's."""
        return self.merger.look(images, train, key)

    def logits(self, image: Image, tokens: Tokens, mask: Mask) -> Logits:
        """Next-token logits, float32, of every position of every caption, of encoded images."""
        return self.language.logits(self.merged_with(image, tokens, mask))

    def merged_with(self, image: Image, tokens: Tokens, mask: Mask) -> Merged:
        """As `merged`, of encoded images, in evaluation."""
        return merge(self.merger, image, self._hidden(tokens, mask), mask)

    def blind_logits(self, tokens: Tokens, mask: Mask) -> tuple[Logits, Logits]:
        """Next-token logits, float32, without an image: with the average of those trained on; without the merger."""
        hidden = self._hidden(tokens, mask)
        means = zip(self.config.merger.reads, self.map_means, strict=True)
        maps = {stride: mean[...].astype(hidden.dtype)[None, None, None] for stride, mean in means}
        average = self.look(Encoded(self.image_mean[...].astype(hidden.dtype)[None], maps))
        image = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (len(tokens), *leaf.shape[1:])), average)
        return self.language.logits(merge(self.merger, image, hidden, mask)), self.language.logits(hidden)

    def attention(
        self, images: Encoded, tokens: Int[Array, "batch captions length"], mask: Bool[Array, "batch captions length"]
    ) -> dict[int, Float[Array, "batch captions length _h _w"]]:
        """How much each position heeds each place of the feature maps of each stride, 1 in sum over all of them.

        Raises:
            ValueError: when the merger asks no feature maps.
        """
        if not isinstance(self.merger, Attention):
            raise ValueError(f"model.merger.kind={self.config.merger.kind}: only attention heeds places")
        weights = self.merger.weights(self.look(images), self._hidden(tokens, mask))
        sides = {stride: images.maps[stride].shape[1:3] for stride in self.config.merger.reads}
        ends = list(accumulate(height * width for height, width in sides.values()))
        parts = jnp.split(weights, ends[:-1], -1)
        each = zip(sides.items(), parts, strict=True)
        return {stride: part.reshape(*part.shape[:3], *side) for (stride, side), part in each}

    def _hidden(
        self,
        tokens: Int[Array, "batch captions length"],
        mask: Bool[Array, "batch captions length"],
        key: jax.Array | None = None,
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
        image: Image,
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
            some_of, state = jax.tree.map(lambda leaf: leaf[some], (image, cache["merger"]))
            some_logits, state = self._merged_logits(some_of, hidden[some], position, state)
            logits = jnp.zeros((*tokens.shape, self.config.language.vocab_size)).at[some].set(some_logits)
            return logits, jax.tree.map(lambda all, new: all.at[some].set(new), cache["merger"], state)

        logits, merger = smallest_that_holds(is_live.sum(), eighths(len(tokens)), run)
        return logits, {"language": language, "merger": merger}

    def _merged_logits(
        self,
        image: Image,
        hidden: Float[Array, "batch beams width"],
        position: Int[Array, ""],
        state: MergerState,
    ) -> tuple[Float[Array, "batch beams vocab"], MergerState]:
        """Of one more token of each beam, and the merger's state after it."""
        merged, state = merge_step(self.merger, image, hidden, position, state)
        logits = self.language.logits(merged.reshape(-1, merged.shape[-1]))  # [batch * beams, vocab]
        return logits.reshape(*merged.shape[:2], -1), state
