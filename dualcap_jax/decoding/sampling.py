"""Captions drawn by chance from any model that gives next-token logits, filtered as transformers filters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from .beam_search import BeamSearchResult, Cache, Context, NextLogits, Reorder, read_prompt
from .config import DecodingConfig
from .constraints import Phrases, Scores, constrain


def sample(
    next_logits: NextLogits,
    reorder: Reorder,
    cache: Cache,
    context: Context,
    start: Int[Array, "batch prompt"],
    keys: Array,
    *,
    config: DecodingConfig,
    end_id: int,
    pad_id: int,
    bad_words: Phrases = (),
) -> BeamSearchResult:
    """Draw `num_return_sequences` captions for each example; arguments and result as `beam_search`.

    Args:
        keys: One random key for each example: what is drawn for it depends on nothing else of the batch.

    Returns:
        The captions as drawn; their scores are their log-probabilities over generated tokens ** length_penalty.
    """
    (batch, prompt), samples = start.shape, config.num_return_sequences
    rows = batch, samples
    tokens = jnp.full((*rows, config.max_length), pad_id, jnp.int32).at[:, :, :prompt].set(start[:, None])

    def extend(state, logits):
        length, tokens, log_probs, lengths, live = state
        logits = logits.astype(jnp.float32)
        allowed = filter_scores(constrain(logits, tokens, length, config, end_id, bad_words), config)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, length))(keys)
        drawn = jax.vmap(jax.random.categorical)(step_keys, allowed)
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], -1)[..., 0]
        tokens = tokens.at[:, :, length].set(jnp.where(live, drawn, pad_id))
        log_probs = log_probs.at[:, :, length].set(jnp.where(live, own, 0.0))
        lengths = jnp.where(live, length + 1, lengths)
        return length + 1, tokens, log_probs, lengths, live & (drawn != end_id)

    logits, cache = read_prompt(next_logits, cache, context, start)
    nothing, lengths = jnp.zeros(tokens.shape, jnp.float32), jnp.full(rows, prompt, jnp.int32)
    state = jnp.int32(prompt), tokens, nothing, lengths, jnp.ones(rows, bool)
    state = extend(state, jnp.broadcast_to(logits, (*rows, logits.shape[-1])))
    itself = jnp.broadcast_to(jnp.arange(samples), rows)
    cache = reorder(cache, jnp.zeros(rows, jnp.int32))

    def is_unfinished(carry):
        (length, *_, live), _ = carry
        return (length < config.max_length) & jnp.any(live)

    def step(carry):
        (length, tokens, *_, live), cache = carry
        last = jax.lax.dynamic_index_in_dim(tokens, length - 1, axis=2, keepdims=False)
        last = jnp.where(live, last, -1)
        logits, cache = next_logits(last, length - 1, reorder(cache, itself), context)
        return extend(carry[0], logits), cache

    (_, tokens, log_probs, lengths, _), _ = jax.lax.while_loop(is_unfinished, step, (state, cache))
    scores = log_probs.sum(-1) / (lengths - prompt).astype(jnp.float32) ** config.length_penalty
    return BeamSearchResult(tokens, lengths, scores, log_probs)


def filter_scores(scores: Scores, config: DecodingConfig) -> Scores:
    """Scores over the temperature, -inf for what top-k, top-p and min-p leave out, one after the other."""
    scores = scores / config.temperature
    if 0 < config.top_k < scores.shape[-1]:
        scores = jnp.where(scores < jax.lax.top_k(scores, config.top_k)[0][..., -1:], -jnp.inf, scores)
    if config.top_p < 1:
        order = jnp.argsort(scores, -1)
        below = jnp.cumsum(jax.nn.softmax(jnp.take_along_axis(scores, order, -1)), -1) <= 1 - config.top_p
        below = below.at[..., -1].set(False)  # the likeliest always stays
        out = jnp.put_along_axis(jnp.zeros_like(below), order, below, -1, inplace=False)
        scores = jnp.where(out, -jnp.inf, scores)
    if config.min_p > 0:
        probabilities = jax.nn.softmax(scores)
        scores = jnp.where(probabilities < config.min_p * probabilities.max(-1, keepdims=True), -jnp.inf, scores)
    return scores
