"""Batched beam search over any model that gives next-token logits, token for token as transformers does it.

The judge is `GenerationMixin._beam_search` of transformers 5.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .config import DecodingConfig

Cache = Any
"""Any pytree: what the model remembers of the hypotheses."""

Context = Any
"""Any pytree: what the model needs to know of each example, the same for all its hypotheses."""

NextLogits = Callable[
    [Int[Array, "batch beams"], Int[Array, ""], Cache, Context], tuple[Float[Array, "batch beams vocabulary"], Cache]
]
"""`(tokens, position, cache, context) -> (logits, cache)`: feed each hypothesis one token at a position, counted
from 0 and the same for all; get the logits of the token after it, and the cache with it written."""

Reorder = Callable[[Cache, Int[Array, "batch beams"]], Cache]
"""`(cache, ancestors) -> cache`: hypothesis i of each example is from now on the one that goes on from what
`ancestors[:, i]` was. After the first step, which is of one hypothesis each, it makes the others."""

NEGLIGIBLE = -1e9
"""The score of what isn't there: far below any real hypothesis, yet finite (and transformers' number)."""


class BeamSearchResult(NamedTuple):
    """The captions found, best first."""

    tokens: Int[Array, "batch returned max_length"]
    """int32, from the start token to the end token (if reached), then padding."""
    lengths: Int[Array, "batch returned"]
    """int32, tokens before the padding, start and end counted."""
    scores: Float[Array, "batch returned"]
    """float32, log-probability / generated tokens ** length_penalty: what the hypotheses are ranked by."""
    log_probs: Float[Array, "batch returned"]
    """float32, log-probability of the caption in nats, its end token included."""


class _State(NamedTuple):
    """What one step of the search hands to the next."""

    length: Int[Array, ""]  # tokens in each live sequence, the start token counted
    sequences: Int[Array, "batch beams max_length"]  # live hypotheses, best first
    log_probs: Float[Array, "batch beams"]  # their summed log-probabilities
    ancestors: Int[Array, "batch beams"]  # the beam of the step before that each one continues
    finished: Int[Array, "batch beams max_length"]  # finished hypotheses, best first
    lengths: Int[Array, "batch beams"]  # their lengths, start and end token counted
    scores: Float[Array, "batch beams"]  # their normalised scores, NEGLIGIBLE where there is none yet
    is_finished: Bool[Array, "batch beams"]  # whether there is one
    improvable: Bool[Array, "batch 1"]  # whether a live hypothesis may still beat a finished one


def beam_search(
    next_logits: NextLogits,
    reorder: Reorder,
    cache: Cache,
    context: Context,
    start: Int[Array, "batch"],
    *,
    config: DecodingConfig,
    end_id: int,
    pad_id: int,
) -> BeamSearchResult:
    """Find the most probable continuations of one start token for each example of a batch.

    A pure function of static shapes, to be called inside `jax.jit` with config and ids static. The first step is of
    one hypothesis for each example, all others of `num_beams`; the loop ends when all examples are done.

    Args:
        next_logits: The model. Its logits may be of any float type; the search computes in float32.
        reorder: How its cache follows the hypotheses.
        cache: Empty, with room for at least `max_length - 1` positions.
        context: What else the model needs of each example (an image vector). `None` where there is nothing.
        start: int32, the first token of each example.
        config: Settings of the search; with 1 beam this is greedy search.
        end_id: The token that ends a caption.
        pad_id: The token written after the end.

    Returns:
        The `num_return_sequences` best captions of each example. Where vocabulary and bans leave fewer, the
        rest mean nothing: their scores are of the order of -1e9.
    """
    batch, beams = start.shape[0], config.num_beams
    state = _initial_state(start, config, pad_id)

    logits, cache = next_logits(start[:, None], jnp.int32(0), cache, context)
    state = _advance(state, jnp.broadcast_to(logits, (batch, beams, logits.shape[-1])), config, end_id)
    cache = reorder(cache, jnp.zeros((batch, beams), jnp.int32))

    def is_unfinished(carry: tuple[_State, Cache]) -> Bool[Array, ""]:
        state, _ = carry
        all_full = jnp.all(state.is_finished) & (_early_stopping(config) is True)
        return (state.length < config.max_length) & jnp.any(state.improvable) & ~all_full

    def step(carry: tuple[_State, Cache]) -> tuple[_State, Cache]:
        state, cache = carry
        last = jax.lax.dynamic_index_in_dim(state.sequences, state.length - 1, axis=2, keepdims=False)
        logits, cache = next_logits(last, state.length - 1, reorder(cache, state.ancestors), context)
        return _advance(state, logits, config, end_id), cache

    state, _ = jax.lax.while_loop(is_unfinished, step, (state, cache))

    best = slice(None), slice(config.num_return_sequences)
    lengths, scores = state.lengths[best], state.scores[best]
    log_probs = scores * _length_norms(config)[lengths - 1]
    return BeamSearchResult(state.finished[best], lengths, scores, log_probs)


def _early_stopping(config: DecodingConfig) -> bool | str:
    """`config.early_stopping`; a single beam is done when it first finishes, as greedy search is."""
    return config.early_stopping if config.num_beams > 1 else True


def _length_norms(config: DecodingConfig) -> Float[Array, "max_length"]:
    """What a log-probability is divided by, indexed by the number of generated tokens (entry 0 is 1)."""
    generated = np.maximum(np.arange(config.max_length), 1.0)
    return jnp.asarray(generated**config.length_penalty, jnp.float32)


def _initial_state(start: Int[Array, "batch"], config: DecodingConfig, pad_id: int) -> _State:
    """One live hypothesis for each example, the start token, and none finished."""
    shape = start.shape[0], config.num_beams
    sequences = jnp.full((*shape, config.max_length), pad_id, jnp.int32).at[:, :, 0].set(start[:, None])
    return _State(
        length=jnp.int32(1),
        sequences=sequences,
        log_probs=jnp.full(shape, NEGLIGIBLE, jnp.float32).at[:, 0].set(0.0),
        ancestors=jnp.zeros(shape, jnp.int32),
        finished=sequences,
        lengths=jnp.ones(shape, jnp.int32),
        scores=jnp.full(shape, NEGLIGIBLE, jnp.float32),
        is_finished=jnp.zeros(shape, bool),
        improvable=jnp.ones((shape[0], 1), bool),
    )


def _advance(
    state: _State, logits: Float[Array, "batch beams vocabulary"], config: DecodingConfig, end_id: int
) -> _State:
    """Extend all live hypotheses by one token."""
    batch, beams, vocabulary = logits.shape
    norms, early_stopping = _length_norms(config), _early_stopping(config)

    # Bans come after the log-softmax over the raw logits: they take probability away and give it to nobody.
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_probs = ban_repeated_ngrams(log_probs, state.sequences, state.length, config.no_repeat_ngram_size)
    totals = (log_probs + state.log_probs[:, :, None]).reshape(batch, beams * vocabulary)

    # Twice as many candidates as beams: if all the best end here, the live beams can still be filled.
    candidate_log_probs, flat = top_k(totals, 2 * beams)
    ancestors, tokens = flat // vocabulary, flat % vocabulary
    candidates = jnp.take_along_axis(state.sequences, ancestors[:, :, None], axis=1)
    candidates = jax.lax.dynamic_update_index_in_dim(candidates, tokens, state.length, axis=2)
    length = state.length + 1
    ends = (tokens == end_id) | (length >= config.max_length)

    # The best that don't end live on.
    live_log_probs, live = jax.lax.top_k(candidate_log_probs + ends * NEGLIGIBLE, beams)

    # The best that end join the finished, if they rank among the first num_beams and the example isn't done.
    joins = ends & (jnp.arange(2 * beams) < beams)
    closed = ~state.improvable | (jnp.all(state.is_finished, axis=1, keepdims=True) & (early_stopping is True))
    candidate_scores = candidate_log_probs / norms[length - 1]
    candidate_scores += closed * NEGLIGIBLE + ~joins * NEGLIGIBLE
    scores, kept = jax.lax.top_k(jnp.concatenate([state.scores, candidate_scores], axis=1), beams)

    def keep(old: Array, new: Array) -> Array:
        merged = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(merged, kept.reshape(*kept.shape, *[1] * (merged.ndim - 2)), axis=1)

    is_finished = keep(state.is_finished, joins)

    # Could the best live hypothesis still beat the worst finished one?
    favourable = config.max_length - 1 if early_stopping == "never" and config.length_penalty > 0 else length - 1
    worst = jnp.where(is_finished, scores.min(axis=1, keepdims=True), NEGLIGIBLE)
    can_improve = jnp.any(live_log_probs[:, :1] / norms[favourable] > worst, axis=1, keepdims=True)

    return _State(
        length=length,
        sequences=jnp.take_along_axis(candidates, live[:, :, None], axis=1),
        log_probs=live_log_probs,
        ancestors=jnp.take_along_axis(ancestors, live, axis=1),
        finished=keep(state.finished, candidates),
        lengths=keep(state.lengths, jnp.full_like(tokens, length)),
        scores=scores,
        is_finished=is_finished,
        improvable=state.improvable & can_improve,
    )


def top_k(scores: Float[Array, "batch candidates"], k: int) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k highest scores and their indices, as `jax.lax.top_k`, ties and all.

    They lie in the k chunks of the highest maxima, which are found in one pass.
    """
    width = 128
    batch, candidates = scores.shape
    if candidates <= 2 * k * width:
        return jax.lax.top_k(scores, k)
    whole = candidates // width * width
    maxima = jnp.concatenate(
        [
            scores[:, :whole].reshape(batch, -1, width).max(-1),
            scores[:, whole:].max(-1, keepdims=True, initial=-jnp.inf),
        ],
        axis=1,
    )
    chosen = jnp.sort(jax.lax.top_k(maxima, k)[1])  # in order, so that the first of equals stays the first
    indices = (chosen[:, :, None] * width + jnp.arange(width)).reshape(batch, -1)
    best, places = jax.lax.top_k(jnp.take_along_axis(scores, indices, 1, mode="fill", fill_value=-jnp.inf), k)
    return best, jnp.take_along_axis(indices, places, 1)


def ban_repeated_ngrams(
    log_probs: Float[Array, "batch beams vocabulary"],
    sequences: Int[Array, "batch beams max_length"],
    length: Int[Array, ""],
    size: int,
) -> Float[Array, "batch beams vocabulary"]:
    """Set to -inf the tokens that would complete an n-gram the sequence already has.

    Args:
        log_probs: Log-probabilities of the next token.
        sequences: The tokens so far, the first `length` of each; the rest is not looked at.
        length: Tokens in each sequence.
        size: The n of the n-grams; 0 bans nothing.

    Returns:
        The log-probabilities with the bans.
    """
    windows = sequences.shape[-1] - size + 1
    if size == 0 or windows < 1:
        return log_probs
    # A window bans its last token if it begins with the size - 1 tokens that the sequence ends with.
    suffix = jax.lax.dynamic_slice_in_dim(sequences, length - (size - 1), size - 1, axis=2)
    matches = jnp.broadcast_to(jnp.arange(windows) + size <= length, (*sequences.shape[:2], windows))
    for offset in range(size - 1):
        matches &= sequences[:, :, offset : offset + windows] == suffix[:, :, offset, None]
    # Windows that ban nothing point past the vocabulary, and are dropped.
    banned = jnp.where(matches, sequences[:, :, size - 1 :], log_probs.shape[-1])
    batch, beams = sequences.shape[:2]
    example, beam = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    return log_probs.at[example, beam, banned].set(-jnp.inf, mode="drop")
