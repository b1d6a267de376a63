import dataclasses
import itertools
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dualcap_jax.decoding import DecodingConfig, DecodingModel, Rules, beam_search
from dualcap_jax.decoding.beam_search import top_k
from dualcap_jax.decoding.rules import ban_repeated_ngrams

from .toy_model import Weights, empty_cache, generate_arguments, make_next_logits, make_torch_model, reorder

END, PAD, VOCABULARY = 2, 1, 23
CONFIG = DecodingConfig(num_beams=4, max_length=12, no_repeat_ngram_size=2, length_penalty=0.7, num_return_sequences=3)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@partial(jax.jit, static_argnames=("config", "bad_words"))
def search(weights: Weights, start: jax.Array, image: jax.Array, config: DecodingConfig, bad_words=()):
    model = DecodingModel(make_next_logits(weights), reorder, empty_cache(weights, len(start)), image)
    return beam_search(model, start, Rules(config, END, PAD, bad_words))


def draw_inputs(seed: int, batch: int, width: int = 8, prompt: int = 1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    start = rng.integers(0, VOCABULARY, (batch, prompt)).astype(np.int32)
    start[0, 0] = END  # GPT-2 frames a caption with the same token at both ends
    return start, rng.normal(size=(batch, width)).astype(np.float32)


def total_log_probs(weights: Weights, tokens: np.ndarray, lengths: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Log-probability of each row of tokens up to its length, by feeding it token by token."""
    next_logits, cache, totals = make_next_logits(weights), empty_cache(weights, len(tokens)), 0.0
    for position in range(tokens.shape[1] - 1):
        logits, cache = next_logits(tokens[:, position, None], position, cache, image)
        gained = jax.nn.log_softmax(logits[:, 0])[np.arange(len(tokens)), tokens[:, position + 1]]
        totals += np.where(position + 1 < lengths, gained, 0.0)
    return totals


@st.composite
def decoding_configs(draw: st.DrawFn) -> DecodingConfig:
    num_beams = draw(st.integers(1, 8))
    return DecodingConfig(
        num_beams=num_beams,
        max_length=draw(st.integers(2, 16)),
        no_repeat_ngram_size=draw(st.integers(0, 3)),
        length_penalty=draw(st.sampled_from([-0.5, 0.0, 0.6, 1.0, 2.0])),
        early_stopping=draw(st.sampled_from([True, False, "never"])),
        num_return_sequences=draw(st.integers(1, num_beams)),
        min_length=draw(st.sampled_from([0, 0, 2])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.0, 1.3, 0.8])),
    )


def rules(beams, length, ngrams, penalty, early_stopping, returned=1, **others) -> DecodingConfig:
    return DecodingConfig(
        beams,
        length,
        ngrams,
        length_penalty=penalty,
        early_stopping=early_stopping,
        num_return_sequences=returned,
        **others,
    )


BAD_WORDS = ((4,), (7, 9), (END, 3), (5, 5, 6))


@settings(max_examples=24, deadline=None, derandomize=True)  # 30 with those below, of 10 models each
@given(
    config=decoding_configs(),
    batch=st.integers(1, 4),
    seed=st.integers(0, 1000),
    prompt=st.sampled_from([1, 1, 3]),
    bad_words=st.sampled_from([(), BAD_WORDS]),
)
@example(config=rules(5, 16, 2, 1.0, True), batch=3, seed=1, prompt=1, bad_words=())
@example(config=rules(5, 16, 2, 2.0, "never", 5), batch=3, seed=2, prompt=1, bad_words=BAD_WORDS)
@example(config=rules(4, 16, 0, 0.6, False, 4), batch=4, seed=3, prompt=4, bad_words=())
@example(config=rules(1, 16, 1, 1.0, "never"), batch=2, seed=4, prompt=1, bad_words=())
@example(
    config=rules(1, 16, 0, 1.0, True, min_length=6, repetition_penalty=1.5), batch=3, seed=5, prompt=2, bad_words=()
)
@example(
    config=rules(6, 16, 0, 1.0, "never", 2, min_length=8, repetition_penalty=1.2),
    batch=3,
    seed=6,
    prompt=3,
    bad_words=BAD_WORDS,
)
def test_sequences_and_scores_are_those_of_transformers(torch, config, batch, seed, prompt, bad_words):
    if config.max_length <= prompt:
        config = dataclasses.replace(config, max_length=prompt + 1)
    # an end that is rare to one that is likely at once
    for case, end_bias in enumerate((-2.0, 1.0, 2.0, 3.0, 5.0, -1.0, 0.0, 1.5, 2.5, 4.0)):
        weights = Weights.draw(seed + case, VOCABULARY, end_id=END, end_bias=end_bias)
        start, image = draw_inputs(seed + case, batch, prompt=prompt)
        ours = jax.device_get(search(weights, start, image, config, bad_words))
        with torch.no_grad():
            theirs = make_torch_model(weights).generate(
                torch.from_numpy(start).long(),
                image=torch.from_numpy(image),
                bad_words_ids=[list(phrase) for phrase in bad_words] or None,
                use_cache=False,
                **generate_arguments(config, END, PAD),
            )
        tokens = theirs.sequences.numpy()
        padding = ((0, 0), (0, config.max_length - tokens.shape[1]))
        tokens = np.pad(tokens, padding, constant_values=PAD).reshape(ours.tokens.shape)
        np.testing.assert_array_equal(ours.tokens, tokens)
        if config.num_beams > 1:  # greedy search gives no scores
            scores = theirs.sequences_scores.numpy().reshape(ours.scores.shape)
            np.testing.assert_allclose(ours.scores, scores, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_beam_wide_enough_finds_the_best_of_all_sequences(length_penalty: float):
    vocabulary, max_length = 4, 5
    config = DecodingConfig(
        num_beams=3**4, max_length=max_length, length_penalty=length_penalty, early_stopping="never"
    )
    words = [token for token in range(vocabulary) if token != END]
    bodies = [body for n in range(max_length - 1) for body in itertools.product(words, repeat=n)]
    sequences = [(END, *body, END) for body in bodies]
    sequences += [(END, *body) for body in itertools.product(words, repeat=max_length - 1)]
    lengths = np.array([len(tokens) for tokens in sequences])
    padded = np.array([tokens + (PAD,) * (max_length - len(tokens)) for tokens in sequences])
    for seed in range(5):
        weights = Weights.draw(seed, vocabulary, end_id=END)
        _, image = draw_inputs(seed, 1)
        scores = total_log_probs(weights, padded, lengths, image) / (lengths - 1) ** length_penalty
        found = search(weights, jnp.array([[END]]), image, config)
        assert found.tokens[0, 0].tolist() == padded[scores.argmax()].tolist()
        assert found.scores[0, 0] == pytest.approx(scores.max(), abs=1e-4)


def test_scores_and_lengths_describe_the_returned_tokens():
    weights = Weights.draw(5, VOCABULARY, end_id=END, end_bias=3.0)
    start, image = draw_inputs(5, 4)
    found = jax.device_get(search(weights, start, image, CONFIG))
    assert found.tokens.shape == (4, 3, 12)
    assert found.tokens.dtype == np.int32
    tokens, lengths = found.tokens.reshape(12, 12), found.lengths.reshape(12)
    for row, length in zip(tokens, lengths, strict=True):
        assert row[length - 1] == END or length == CONFIG.max_length
        assert END not in row[1 : length - 1]
        assert (row[length:] == PAD).all()
    assert (found.tokens[:, :, 0] == start).all()
    log_probs = total_log_probs(weights, tokens, lengths, image.repeat(3, axis=0))
    np.testing.assert_allclose(found.token_log_probs.sum(-1).reshape(12), log_probs, atol=1e-4)
    generated = (np.arange(12) > 0) & (np.arange(12) < lengths[:, None])
    assert ((found.token_log_probs.reshape(12, 12) != 0) == generated).all()
    np.testing.assert_allclose(found.scores.reshape(12), log_probs / (lengths - 1) ** 0.7, atol=1e-4)
    assert (np.diff(found.scores, axis=1) <= 0).all()


def test_diverse_beams_are_those_of_transformers_4():
    """The file holds what transformers 4.53.3, the last line to have this search, found for drawn toy models.

    All cases have early stopping and no caption of full length; elsewhere that version's bookkeeping differs from
    transformers 5's, which each group follows here.
    """
    for case in json.loads(Path(__file__).with_name("diverse_beams.json").read_text()):
        weights = Weights.draw(case["seed"], case["vocab"], end_id=case["end"], end_bias=case["bias"])
        image = np.random.default_rng(case["seed"]).normal(size=(case["batch"], 8)).astype(np.float32)
        model = DecodingModel(make_next_logits(weights), reorder, empty_cache(weights, case["batch"]), image)
        start = jnp.full((case["batch"], 1), case["start"], jnp.int32)
        config = DecodingConfig(**case["settings"])
        found = beam_search(model, start, Rules(config, case["end"], case["end"]))
        theirs = [row + [case["end"]] * (config.max_length - len(row)) for row in case["sequences"]]
        np.testing.assert_array_equal(found.tokens.reshape(-1, config.max_length), theirs)
        np.testing.assert_allclose(found.scores.reshape(-1), case["scores"], rtol=1e-4, atol=1e-5)


def test_the_first_group_searches_as_if_alone_and_the_next_says_something_else():
    weights, (start, image) = Weights.draw(5, VOCABULARY, end_id=END), draw_inputs(5, 6)
    alone = search(weights, start, image, DecodingConfig(2, 8, num_return_sequences=2))
    groups = DecodingConfig(4, 8, num_beam_groups=2, diversity_penalty=50.0, num_return_sequences=4)
    together = search(weights, start, image, groups)
    for row in range(len(start)):
        mine, every = ({tuple(tokens) for tokens in found.tokens[row].tolist()} for found in (alone, together))
        assert mine < every
        assert {tokens[1] for tokens in mine}.isdisjoint(tokens[1] for tokens in every - mine)


def test_an_example_is_searched_alike_in_any_batch():
    weights = Weights.draw(9, VOCABULARY, end_id=END, end_bias=2.0)
    start, image = draw_inputs(9, 4)
    together = jax.device_get(search(weights, start, image, CONFIG))
    for row in range(4):
        alone = jax.device_get(search(weights, start[row : row + 1], image[row : row + 1], CONFIG))
        np.testing.assert_array_equal(alone.tokens[0], together.tokens[row])
        np.testing.assert_allclose(alone.scores[0], together.scores[row], atol=1e-5)


def count_steps(config: DecodingConfig, logits: np.ndarray) -> int:
    """Steps of a search whose logits are the rows of an array, one for each position, the last for all later."""
    steps = []

    def next_logits(tokens, position, cache, context):
        jax.debug.callback(lambda p: steps.append(int(p)), position)
        row = jnp.asarray(logits)[jnp.minimum(position, len(logits) - 1)]
        return jnp.broadcast_to(row, (*tokens.shape, VOCABULARY)), cache

    start, nothing = jnp.zeros((2, 1), jnp.int32), lambda cache, ancestors: cache
    found = beam_search(DecodingModel(next_logits, nothing, ()), start, Rules(config, END, PAD))
    jax.block_until_ready(found.tokens)
    jax.effects_barrier()
    assert steps == list(range(len(steps)))
    return len(steps)


def test_greedy_search_ends_when_all_examples_have_ended():
    logits = np.zeros((3, VOCABULARY), np.float32)
    logits[[0, 1, 2], [5, 5, END]] = 50
    assert count_steps(DecodingConfig(num_beams=1, max_length=30, early_stopping="never"), logits) == 3


def test_early_stopping_says_whether_full_is_done():
    # One hypothesis ends at once, another a step later; a live one could still beat the first, being longer.
    logits = np.zeros((2, VOCABULARY), np.float32)
    logits[0, [5, END]] = 50, 49.9
    logits[1, END] = 2
    first, improved = (
        count_steps(DecodingConfig(2, 30, length_penalty=3.0, early_stopping=early_stopping), logits)
        for early_stopping in (True, False)
    )
    assert first == 2
    assert improved > 2


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), size=st.integers(0, 4), length=st.integers(1, 9))
def test_no_ngram_occurs_twice(data: st.DataObject, size: int, length: int):
    tokens = data.draw(st.lists(st.integers(0, 3), min_size=9, max_size=9))
    ban = jax.jit(ban_repeated_ngrams, static_argnames="size")
    banned = jax.device_get(ban(jnp.zeros((1, 1, 4)), jnp.array([[tokens]]), jnp.int32(length), size=size))[0, 0]
    so_far = tokens[:length]
    seen = {tuple(so_far[i : i + size]) for i in range(length - size + 1)} if size else set()
    for token in range(4):
        completed = tuple((*so_far, token)[length + 1 - size :])
        assert bool(np.isneginf(banned[token])) == (completed in seen)


@pytest.mark.parametrize(
    ("field", "value", "accepted"),
    [
        ("num_beams", 0, "at least 1"),
        ("max_length", 1, "at least 2"),
        ("no_repeat_ngram_size", -1, "at least 0"),
        ("num_return_sequences", 6, "at most decoding.num_beams=5"),
        ("batch_size", 0, "at least 1"),
        ("length_penalty", float("nan"), "finite"),
        ("early_stopping", "soon", "True, False or 'never'"),
        ("num_beam_groups", 2, "must divide decoding.num_beams=5"),
        ("num_beam_groups", 5, "a penalty above 0"),
    ],
)
def test_an_impossible_setting_names_itself(field: str, value: object, accepted: str):
    with pytest.raises(ValueError, match=rf"decoding\.{field}={value!r}.*{accepted}"):
        DecodingConfig(**{field: value})


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    beams=st.sampled_from([1, 3, 20]),
    vocabulary=st.sampled_from([1, 100, 128, 1000, 2561]),
    k=st.sampled_from([1, 2, 10]),
    values=st.sampled_from([1, 2, 50, 10**6]),
    seed=st.integers(0, 100),
)
def test_the_highest_scores_are_those_of_lax_with_ties_in_the_same_order(batch, beams, vocabulary, k, values, seed):
    rng = np.random.default_rng(seed)
    scores = -rng.integers(0, values, (batch, beams, vocabulary)).astype(np.float32)
    scores[rng.random(scores.shape) < 0.2] = -np.inf
    offsets = -rng.integers(0, values, (batch, beams)).astype(np.float32)
    k = min(k, beams * vocabulary)
    expected = jax.lax.top_k((scores + offsets[:, :, None]).reshape(batch, -1), k)
    for ours, theirs in zip(top_k(jnp.asarray(scores), jnp.asarray(offsets), k), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
