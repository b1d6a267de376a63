"""Captions drawn by chance from any model that gives next-token logits, filtered as transformers filters."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.decoding.model import Cache, DecodingModel, read_prompt
from dualcap_jax.decoding.result import Decoded
from dualcap_jax.decoding.rules import Rules, Scores, constrain

_State = tuple[Array, Array, Array, Array, Array]
"""Length so far, tokens, their log-probabilities, lengths of the captions, and which are not ended yet."""


def sample(
    model: DecodingModel, start: Int[Array, "batch prompt"], rules: Rules, keys: Key[Array, " batch"]
) -> Decoded:
    """Draw `num_return_sequences` captions for each example; arguments and result as `beam_search`.

    Args:
        model: What gives logits.
        start: int32, the first tokens of each example.
        rules: Settings of the search, and ids.
        keys: One random key for each example: what is drawn for it depends on nothing else of the batch.

    Returns:
        The captions as drawn; their scores are their log-probabilities over generated tokens ** length_penalty.
    """
    config, (batch, prompt) = rules.config, start.shape
    samples = config.num_return_sequences
    rows = batch, samples
    tokens = jnp.full((*rows, config.max_length), rules.pad_id, jnp.int32).at[:, :, :prompt].set(start[:, None])

    def extend(state: _State, logits: Float[Array, "batch samples vocabulary"]) -> _State:
        length, tokens, log_probs, lengths, live = state
        logits = logits.astype(jnp.float32)
        allowed = filter_scores(constrain(logits, tokens, length, rules), config)
        step_keys = jax.vmap(lambda key: jax.random.fold_in(key, length))(keys)
        drawn = jax.vmap(jax.random.categorical)(step_keys, allowed)
        own = jnp.take_along_axis(jax.nn.log_softmax(logits), drawn[..., None], -1)[..., 0]
        tokens = tokens.at[:, :, length].set(jnp.where(live, drawn, rules.pad_id))
        log_probs = log_probs.at[:, :, length].set(jnp.where(live, own, 0.0))
        lengths = jnp.where(live, length + 1, lengths)
        return length + 1, tokens, log_probs, lengths, live & (drawn != rules.end_id)

    logits, cache = read_prompt(model, start)
    nothing, lengths = jnp.zeros(tokens.shape, jnp.float32), jnp.full(rows, prompt, jnp.int32)
    state = jnp.int32(prompt), tokens, nothing, lengths, jnp.ones(rows, bool)
    state = extend(state, jnp.broadcast_to(logits, (*rows, logits.shape[-1])))
    itself = jnp.broadcast_to(jnp.arange(samples), rows)
    cache = model.reorder(cache, jnp.zeros(rows, jnp.int32))

    def is_unfinished(carry: tuple[_State, Cache]) -> Bool[Array, ""]:
        (length, *_, live), _ = carry
        return (length < config.max_length) & jnp.any(live)

    def step(carry: tuple[_State, Cache]) -> tuple[_State, Cache]:
        (length, tokens, *_, live), cache = carry
        last = jax.lax.dynamic_index_in_dim(tokens, length - 1, axis=2, keepdims=False)
        last = jnp.where(live, last, -1)
        logits, cache = model.next_logits(last, length - 1, model.reorder(cache, itself), model.context)
        return extend(carry[0], logits), cache

    (_, tokens, log_probs, lengths, _), _ = jax.lax.while_loop(is_unfinished, step, (state, cache))
    scores = log_probs.sum(-1) / (lengths - prompt).astype(jnp.float32) ** config.length_penalty
    return Decoded(tokens, lengths, scores, log_probs)


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
