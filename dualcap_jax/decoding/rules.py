"""What may follow: small pure functions over the scores of the next token, with transformers' semantics and order.

Scores are float32 [batch, beams, vocabulary]; sequences int32 [batch, beams, max_length], of which the first `length`
tokens are there. What is banned scores -inf.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dualcap_jax.decoding.config import DecodingConfig

Scores = Float[Array, "batch beams vocabulary"]
Sequences = Int[Array, "batch beams max_length"]
Phrases = tuple[tuple[int, ...], ...]
"""Token ids of words, static."""


@dataclass(frozen=True)
class Rules:
    """Everything that a search keeps to; hashable, for a static argument of `jax.jit`."""

    config: DecodingConfig
    """Settings of the search."""
    end_id: int
    """The token that ends a caption."""
    pad_id: int
    """The token written after the end."""
    bad_words: Phrases = ()
    """Token ids of phrases that may not occur."""


def constrain(scores: Scores, sequences: Sequences, length: Int[Array, ""], rules: Rules) -> Scores:
    """The scores with all that the rules forbid taken out."""
    config = rules.config
    scores = penalize_repetition(scores, sequences, length, config.repetition_penalty)
    scores = ban_repeated_ngrams(scores, sequences, length, config.no_repeat_ngram_size)
    scores = ban_phrases(scores, sequences, length, rules.bad_words)
    if config.min_length:
        is_end = jnp.arange(scores.shape[-1]) == rules.end_id
        scores = jnp.where((length < config.min_length) & is_end, -jnp.inf, scores)
    return scores


def penalize_repetition(scores: Scores, sequences: Sequences, length: Int[Array, ""], penalty: float) -> Scores:
    """Multiply the negative and divide the positive scores of tokens that are there already by the penalty."""
    if penalty == 1.0:
        return scores
    # Places after the end point past the vocabulary, and are dropped.
    there = jnp.where(jnp.arange(sequences.shape[-1]) < length, sequences, scores.shape[-1])
    old = jnp.take_along_axis(scores, there, -1, mode="clip")
    batch, beams = sequences.shape[:2]
    example, beam = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    return scores.at[example, beam, there].set(jnp.where(old < 0, old * penalty, old / penalty), mode="drop")


def ban_repeated_ngrams(scores: Scores, sequences: Sequences, length: Int[Array, ""], size: int) -> Scores:
    """Ban the tokens that would complete an n-gram, of `size` tokens, that the sequence already has; 0 bans nothing."""
    windows = sequences.shape[-1] - size + 1
    if size == 0 or windows < 1:
        return scores
    # A window bans its last token if it begins with the size - 1 tokens that the sequence ends with.
    suffix = jax.lax.dynamic_slice_in_dim(sequences, length - (size - 1), size - 1, axis=2)
    matches = jnp.broadcast_to(jnp.arange(windows) + size <= length, (*sequences.shape[:2], windows))
    for offset in range(size - 1):
        matches &= sequences[:, :, offset : offset + windows] == suffix[:, :, offset, None]
    # Windows that ban nothing point past the vocabulary, and are dropped.
    banned = jnp.where(matches, sequences[:, :, size - 1 :], scores.shape[-1])
    batch, beams = sequences.shape[:2]
    example, beam = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    return scores.at[example, beam, banned].set(-jnp.inf, mode="drop")


def ban_phrases(scores: Scores, sequences: Sequences, length: Int[Array, ""], phrases: Phrases) -> Scores:
    """Ban the last token of a phrase wherever the sequence ends with the others."""
    for *beginning, last in phrases:
        size = len(beginning)
        if size >= sequences.shape[-1]:
            continue
        suffix = jax.lax.dynamic_slice_in_dim(sequences, length - size, size, axis=2)
        matches = jnp.all(suffix == jnp.array(beginning, jnp.int32), -1) & (length >= size)
        scores = scores.at[:, :, last].set(jnp.where(matches, -jnp.inf, scores[:, :, last]))
    return scores
