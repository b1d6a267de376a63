"""What a caption owes to its picture: how much of each word was seen, and where (Grad-CAM)."""

import math
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, UInt8
from PIL import Image

from dualcap_jax.data.text import CaptionTokenizer, normalize_caption
from dualcap_jax.errors import UserError

STRIDES = (2, 4, 8, 16, 32)
"""Of the encoder's feature maps, in pixels."""

LEAST_SIDE = 256
"""Pixels that an overlay's sides have at least, whatever the network's input size."""


class WordError(UserError):
    """A word that the caption does not hold."""


@dataclass(frozen=True)
class Word:
    """One word of a caption, and where it comes from."""

    text: str
    log_prob: float
    """Log-probability of its tokens, in nats."""
    blind_log_prob: float
    """The same with the average of the pictures trained on."""
    language_log_prob: float
    """The same under the language model alone, which was not trained to speak without the merger."""

    @property
    def seen(self) -> float:
        """What the picture added to the word's log-probability, in nats: where it is about 0 the word was guessed."""
        return self.log_prob - self.blind_log_prob


def word_spans(pieces: Sequence[str]) -> list[slice]:
    """The tokens of each word: `pieces` are their texts, and one that begins a word begins with a space."""
    starts = [i for i, piece in enumerate(pieces) if i == 0 or piece[:1].isspace()]
    return [slice(*ends) for ends in pairwise([*starts, len(pieces)])]


def join_words(tokenizer: CaptionTokenizer, ids: Sequence[int], of_tokens: Sequence[np.ndarray]) -> tuple[Word, ...]:
    """The words of a caption.

    Args:
        tokenizer: the network's.
        ids: tokens of the caption, the opening one first, without the closing one.
        of_tokens: what `log_probs` gave for it, three arrays [length].
    """
    spans = word_spans(tokenizer.pieces(ids[1:]))
    return tuple(
        Word(tokenizer.decode(ids[1:][span]), *(float(each[span].sum(dtype=float)) for each in of_tokens))
        for span in spans
    )


def find_word(caption: str, word: str | int) -> list[int]:
    """Places of a word among the words of a caption, from 0, whatever its case and the punctuation around it.

    Raises:
        WordError: when it has none, or no word at the place that was given.
    """

    def bare(text: str) -> str:
        return text.strip(string.punctuation + string.whitespace).casefold()

    words = normalize_caption(caption).split()
    places = [i for i, each in enumerate(words) if i == word or (isinstance(word, str) and bare(each) == bare(word))]
    if not places:
        counted = "" if isinstance(word, str) else f": it has {len(words)}, counted from 0"
        raise WordError(f"the caption {caption!r} has no word {word!r}{counted}")
    return places


@partial(jax.jit, static_argnames="graphdef")
def log_probs(
    model: dict[str, Any],
    images: UInt8[Array, "batch size size 3"],
    tokens: Int[Array, "batch captions length"],
    lengths: Int[Array, "batch captions"],
    *,
    graphdef: nnx.GraphDef,
) -> tuple[Float[Array, "batch captions length-1"], ...]:
    """Log-probabilities of all tokens after the first: the three of `Word`."""
    network = nnx.merge(graphdef, model["params"], model["batch_stats"], copy=True)
    mask = jnp.arange(tokens.shape[-1] - 1) < lengths[..., None]

    def of_labels(logits):
        return jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., 1:, None], -1)[..., 0]

    before = tokens[..., :-1]
    return tuple(map(of_labels, (network(images, before, mask), *network.blind_logits(before, mask))))


def grad_cam(
    score: Callable[[Array], Array], features: Float[Array, "height width channels"]
) -> Float[Array, "height width"]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2), not normalised.

    Args:
        score: a number, of the feature maps.
        features: the maps, of one picture.
    """
    weights = jax.grad(score)(features).mean((0, 1))
    return jax.nn.relu(features @ weights)


def usual_stride(size: int) -> int:
    """Pixels between neighbours of the deepest feature maps of at least 7 x 7 places, as ResNet's in the paper are."""
    return max((stride for stride in STRIDES if size >= 7 * stride), default=STRIDES[0])


@partial(jax.jit, static_argnames=("graphdef", "stride"))
def word_map(
    model: dict[str, Any],
    image: UInt8[Array, "size size 3"],
    tokens: Int[Array, "1 1 length"],
    of_word: Bool[Array, " length-1"],
    *,
    graphdef: nnx.GraphDef,
    stride: int,
) -> Float[Array, "size size"]:
    """Grad-CAM of those tokens after the first that are `of_word`; see `Captioner.grad_cam`."""
    network = nnx.merge(graphdef, model["params"], model["batch_stats"], copy=True)
    layers, strides = network.encoder.layers(), network.encoder.strides
    last = max(index for index, each in enumerate(strides) if each == stride)
    features = reduce(_apply, layers[: last + 1], image[None])[0]
    before, labels = tokens[..., :-1], tokens[0, 0, 1:]

    def log_prob(maps):
        vector = reduce(_apply, layers[last + 1 :], maps[None].astype(features.dtype))
        logits = network.logits(vector, before, jnp.ones_like(before, bool))[0, 0]
        of_labels = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], -1)[:, 0]
        return jnp.sum(of_labels, where=of_word)

    places = grad_cam(log_prob, features.astype(jnp.float32))
    largest = places.max()
    return jax.image.resize(places / jnp.where(largest > 0, largest, 1), image.shape[:2], "bilinear")


def _apply(x: Array, layer: Callable[[Array], Array]) -> Array:
    return layer(x)


def overlay(picture: UInt8[np.ndarray, "size size 3"], heatmap: Float[np.ndarray, "size size"]) -> Image.Image:
    """A picture under a map of 0 (blue) to 1 (red), enlarged to at least `LEAST_SIDE` pixels.

    Args:
        picture: as `Captioner.prepare` gives it.
        heatmap: what `Captioner.grad_cam` gave for it.
    """
    from matplotlib import colormaps  # slow to import, and seldom needed

    side = picture.shape[0] * math.ceil(LEAST_SIDE / picture.shape[0])
    colours = Image.fromarray(colormaps["jet"](heatmap, bytes=True)[..., :3])
    return Image.blend(Image.fromarray(picture), colours, 0.4).resize((side, side), Image.Resampling.BICUBIC)
