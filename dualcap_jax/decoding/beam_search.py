"""Batched beam search over any model that gives next-token logits, token for token as transformers does it.

The judge is `GenerationMixin._beam_search` of transformers 5.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.decoding.model import Cache, DecodingModel, read_prompt
from dualcap_jax.decoding.result import Decoded
from dualcap_jax.decoding.rules import Rules, constrain

NEGLIGIBLE = -1e9
"""The score of what isn't there: far below any real hypothesis, yet finite (and transformers' number)."""


class _State(NamedTuple):
    """What one step of the search hands to the next."""

    length: Int[Array, ""]  # tokens in each live sequence, the start token counted
    sequences: Int[Array, "batch beams max_length"]  # live hypotheses, best first
    log_probs: Float[Array, "batch beams"]  # their summed log-probabilities, as constrained
    token_log_probs: Float[Array, "batch beams max_length"]  # of each of their tokens, as the model has it
    ancestors: Int[Array, "batch beams"]  # the beam of the step before that each one continues
    finished: Int[Array, "batch beams max_length"]  # finished hypotheses, best first
    finished_log_probs: Float[Array, "batch beams max_length"]  # of each of their tokens
    lengths: Int[Array, "batch beams"]  # their lengths, start and end token counted
    scores: Float[Array, "batch beams"]  # their normalised scores, NEGLIGIBLE where there is none yet
    is_finished: Bool[Array, "batch beams"]  # whether there is one
    improvable: Bool[Array, "batch 1"]  # whether a live hypothesis may still beat a finished one


def beam_search(model: DecodingModel, start: Int[Array, "batch prompt"], rules: Rules) -> Decoded:
    """Find the most probable continuations of each example's first tokens.

    A pure function of static shapes, to be called inside `jax.jit` with the rules static. The prompt is of one
    hypothesis for each example, all that follows of `num_beams`; the loop ends when all examples are done.

    Args:
        model: What gives logits; the search computes in float32.
        start: int32, the first tokens of each example, fewer than `max_length`.
        rules: Settings of the search (with 1 beam it is greedy search), and ids.

    Returns:
        The `num_return_sequences` best captions of each example. Where vocabulary and bans leave fewer, the
        rest mean nothing: their scores are of the order of -1e9.
    """
    config, (batch, prompt) = rules.config, start.shape
    beams = config.num_beams
    states = (_initial_state(start, rules),) * config.num_beam_groups
    advance = partial(_advance_groups, prompt=prompt, rules=rules)

    logits, cache = read_prompt(model, start)
    states = advance(states, jnp.broadcast_to(logits, (batch, beams, logits.shape[-1])))
    cache = model.reorder(cache, jnp.zeros((batch, beams), jnp.int32))

    def is_unfinished(carry: tuple[tuple[_State, ...], Cache]) -> Bool[Array, ""]:
        states, _ = carry
        all_done = jnp.all(jnp.stack([_is_done(state, config) for state in states]))
        return (states[0].length < config.max_length) & ~all_done

    def step(carry: tuple[tuple[_State, ...], Cache]) -> tuple[tuple[_State, ...], Cache]:
        states, cache = carry
        last = jnp.concatenate([jnp.where(_is_done(state, config), -1, _last_tokens(state)) for state in states], 1)
        size = beams // len(states)
        ancestors = jnp.concatenate([state.ancestors + group * size for group, state in enumerate(states)], 1)
        logits, cache = model.next_logits(last, states[0].length - 1, model.reorder(cache, ancestors), model.context)
        return advance(states, logits), cache

    states, _ = jax.lax.while_loop(is_unfinished, step, (states, cache))
    return _best(states, config.num_return_sequences)


def _best(states: tuple[_State, ...], number: int) -> Decoded:
    """The best finished hypotheses of all groups."""
    every = [Decoded(state.finished, state.lengths, state.scores, state.finished_log_probs) for state in states]
    together = jax.tree.map(lambda *leaves: jnp.concatenate(leaves, axis=1), *every)
    _, best = jax.lax.top_k(together.scores, number)
    return jax.tree.map(
        lambda leaf: jnp.take_along_axis(leaf, best.reshape(*best.shape, *[1] * (leaf.ndim - 2)), axis=1), together
    )


def _last_tokens(state: _State) -> Int[Array, "batch beams"]:
    return jax.lax.dynamic_index_in_dim(state.sequences, state.length - 1, axis=2, keepdims=False)


def _early_stopping(config: DecodingConfig) -> bool | str:
    """`config.early_stopping`; a single beam is done when it first finishes, as greedy search is."""
    return config.early_stopping if config.num_beams > 1 else True


def _is_done(state: _State, config: DecodingConfig) -> Bool[Array, "batch 1"]:
    """Whether an example's captions are found."""
    full = jnp.all(state.is_finished, axis=1, keepdims=True) & (_early_stopping(config) is True)
    return ~state.improvable | full


def _length_norms(config: DecodingConfig) -> Float[Array, "max_length"]:
    """What a log-probability is divided by, indexed by the number of generated tokens (entry 0 is 1)."""
    generated = np.maximum(np.arange(config.max_length), 1.0)
    return jnp.asarray(generated**config.length_penalty, jnp.float32)


def _initial_state(start: Int[Array, "batch prompt"], rules: Rules) -> _State:
    """One live hypothesis for each example, its first tokens, and none finished."""
    config, (batch, prompt) = rules.config, start.shape
    shape = batch, config.num_beams // config.num_beam_groups
    sequences = jnp.full((*shape, config.max_length), rules.pad_id, jnp.int32).at[:, :, :prompt].set(start[:, None])
    nothing = jnp.zeros((*shape, config.max_length), jnp.float32)
    return _State(
        length=jnp.int32(prompt),
        sequences=sequences,
        log_probs=jnp.full(shape, NEGLIGIBLE, jnp.float32).at[:, 0].set(0.0),
        token_log_probs=nothing,
        ancestors=jnp.zeros(shape, jnp.int32),
        finished=sequences,
        finished_log_probs=nothing,
        lengths=jnp.full(shape, prompt, jnp.int32),
        scores=jnp.full(shape, NEGLIGIBLE, jnp.float32),
        is_finished=jnp.zeros(shape, bool),
        improvable=jnp.ones((batch, 1), bool),
    )


def _advance_groups(
    states: tuple[_State, ...],
    logits: Float[Array, "batch beams vocabulary"],
    prompt: int,
    rules: Rules,
) -> tuple[_State, ...]:
    """Extend the groups one after the other, each kept from what those before it chose (Vijayakumar et al. 2018)."""
    config = rules.config
    chosen = jnp.zeros((len(logits), 1, logits.shape[-1]), jnp.float32)  # how often each token was
    advanced = []
    for state, own in zip(states, jnp.split(logits, len(states), axis=1), strict=True):
        advanced.append(_advance(state, own, config.diversity_penalty * chosen, prompt, rules))
        # a group that is done chooses padding, as in transformers 4, which had this search
        tokens = jnp.where(_is_done(state, config), rules.pad_id, _last_tokens(advanced[-1]))
        chosen = chosen.at[jnp.arange(len(logits))[:, None], 0, tokens].add(1.0)
    return tuple(advanced)


def _advance(
    state: _State,
    logits: Float[Array, "batch beams vocabulary"],
    penalty: Float[Array, "batch 1 vocabulary"],
    prompt: int,
    rules: Rules,
) -> _State:
    """Extend all live hypotheses of a group by one token."""
    config, (batch, beams, vocabulary) = rules.config, logits.shape
    norms = _length_norms(config)

    logits = logits.astype(jnp.float32)
    normalizers = jax.nn.logsumexp(logits, axis=-1)  # [batch, beams]
    so_far = state.sequences, state.length
    if config.num_beams == 1:  # greedy search is constrained before the softmax
        scores = constrain(logits, *so_far, rules)
        offsets = state.log_probs - jax.nn.logsumexp(scores, axis=-1)
    elif config.repetition_penalty != 1 or config.diversity_penalty:  # which change log-probabilities
        scores = constrain(logits - normalizers[:, :, None] - penalty, *so_far, rules)
        offsets = state.log_probs
    else:  # what a ban takes away is given to nobody
        scores = constrain(logits, *so_far, rules)
        offsets = state.log_probs - normalizers

    # Twice as many candidates as beams: if all the best end here, the live beams can still be filled.
    candidate_log_probs, flat = top_k(scores, offsets, 2 * beams)
    ancestors, tokens = flat // vocabulary, flat % vocabulary

    def extend(rows: Array, new: Array) -> Array:
        rows = jnp.take_along_axis(rows, ancestors[:, :, None], axis=1)
        return jax.lax.dynamic_update_index_in_dim(rows, new, state.length, axis=2)

    candidates = extend(state.sequences, tokens)
    own_log_probs = jnp.take_along_axis(logits.reshape(batch, -1), flat, axis=1)
    own_log_probs -= jnp.take_along_axis(normalizers, ancestors, axis=1)
    candidates_log_probs = extend(state.token_log_probs, own_log_probs)
    length = state.length + 1
    ends = (tokens == rules.end_id) | (length >= config.max_length)

    # The best that don't end live on.
    live_log_probs, live = jax.lax.top_k(candidate_log_probs + ends * NEGLIGIBLE, beams)

    # The best that end join the finished, if they rank among the first num_beams and the example isn't done.
    joins = ends & (jnp.arange(2 * beams) < beams)
    candidate_scores = candidate_log_probs / norms[length - prompt]
    candidate_scores += _is_done(state, config) * NEGLIGIBLE + ~joins * NEGLIGIBLE
    scores, kept = jax.lax.top_k(jnp.concatenate([state.scores, candidate_scores], axis=1), beams)

    def keep(old: Array, new: Array) -> Array:
        merged = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(merged, kept.reshape(*kept.shape, *[1] * (merged.ndim - 2)), axis=1)

    is_finished = keep(state.is_finished, joins)

    # Could the best live hypothesis still beat the worst finished one?
    longest = _early_stopping(config) == "never" and config.length_penalty > 0
    favourable = (config.max_length if longest else length) - prompt
    worst = jnp.where(is_finished, scores.min(axis=1, keepdims=True), NEGLIGIBLE)
    can_improve = jnp.any(live_log_probs[:, :1] / norms[favourable] > worst, axis=1, keepdims=True)

    return _State(
        length=length,
        sequences=jnp.take_along_axis(candidates, live[:, :, None], axis=1),
        log_probs=live_log_probs,
        token_log_probs=jnp.take_along_axis(candidates_log_probs, live[:, :, None], axis=1),
        ancestors=jnp.take_along_axis(ancestors, live, axis=1),
        finished=keep(state.finished, candidates),
        finished_log_probs=keep(state.finished_log_probs, candidates_log_probs),
        lengths=keep(state.lengths, jnp.full_like(tokens, length)),
        scores=scores,
        is_finished=is_finished,
        improvable=state.improvable & can_improve,
    )


def top_k(
    scores: Float[Array, "batch beams vocabulary"], offsets: Float[Array, "batch beams"], k: int
) -> tuple[Float[Array, "batch k"], Int[Array, "batch k"]]:
    """The k highest of `scores + offsets[:, :, None]`, and their indices among all that an example has.

    As `jax.lax.top_k`, ties and all, without making that sum: the k lie in the k chunks of the highest maxima, which
    are found in one pass.
    """
    width = 128
    batch, beams, vocabulary = scores.shape
    if beams * vocabulary <= 2 * k * width:
        values, places = jax.lax.top_k((scores + offsets[:, :, None]).reshape(batch, -1), k)
        return values, places
    whole = vocabulary // width * width
    maxima = jnp.concatenate(
        [
            scores[:, :, :whole].reshape(batch, beams, -1, width).max(-1),
            scores[:, :, whole:].max(-1, keepdims=True, initial=-jnp.inf),
        ],
        axis=2,
    )
    chunks = maxima.shape[2]
    _, chosen = jax.lax.top_k((maxima + offsets[:, :, None]).reshape(batch, -1), k)
    chosen = jnp.sort(chosen)[:, :, None]  # in order, so that the first of equals stays the first
    beam, token = chosen // chunks, chosen % chunks * width + jnp.arange(width)  # [batch, k, width]
    indices = (beam * vocabulary + token).reshape(batch, -1)
    values = jnp.take_along_axis(scores.reshape(batch, -1), indices, axis=1).reshape(token.shape)
    values = jnp.where(token < vocabulary, values + jnp.take_along_axis(offsets, beam[:, :, 0], 1)[..., None], -jnp.inf)
    best, places = jax.lax.top_k(values.reshape(batch, -1), k)
    return best, jnp.take_along_axis(indices, places, 1)
