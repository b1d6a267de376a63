"""How much of each word of a caption the image gave."""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int
from optax import softmax_cross_entropy_with_integer_labels

from dualcap_jax.data.text import CaptionTokenizer, normalize_caption
from dualcap_jax.errors import UserError
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.mergers import Image
from dualcap_jax.models.variables import Variables, bind


class WordError(UserError):
    """A word that the caption does not hold."""


@dataclass(frozen=True)
class Word:
    """One word of a caption, and where it comes from."""

    text: str
    log_prob: float
    """Log-probability of its tokens, in nats."""
    blind_log_prob: float
    """The same with the average of the images trained on."""
    language_log_prob: float
    """The same under the language model alone, which was not trained to speak without the merger."""

    @property
    def seen(self) -> float:
        """What the image added to the word's log-probability, in nats: where it is about 0 the word was guessed."""
        return self.log_prob - self.blind_log_prob


def word_spans(pieces: Sequence[str]) -> list[slice]:
    """The tokens of each word: `pieces` are their texts, and one that begins a word begins with a space.

    Tokens of nothing but space belong to the word before them.
    """
    if not pieces:
        return []
    starts = [i for i, piece in enumerate(pieces) if i == 0 or piece[:1].isspace()]
    spoken = [start for start, end in pairwise([*starts, len(pieces)]) if "".join(pieces[start:end]).strip()]
    return [slice(*ends) for ends in pairwise([0, *spoken[1:], len(pieces)])]


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


@partial(jax.jit, static_argnames="config")
def log_probs(
    config: ModelConfig,
    variables: Variables,
    features: Image,
    tokens: Int[Array, "batch captions length"],
    lengths: Int[Array, "batch captions"],
) -> tuple[Float[Array, "batch captions length-1"], ...]:
    """Log-probabilities of all tokens after the first, of encoded images: the three of `Word`."""
    network = bind(config, variables)
    mask = jnp.arange(tokens.shape[-1] - 1) < lengths[..., None]
    before = tokens[..., :-1]
    logits = network.logits(features, before, mask), *network.blind_logits(before, mask)
    return tuple(-softmax_cross_entropy_with_integer_labels(each, tokens[..., 1:]) for each in logits)
