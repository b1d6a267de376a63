"""Sampling against transformers' filters, and against the probabilities that it should draw by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dualcap_jax.decoding import DecodingConfig, DecodingModel, Rules, sample
from dualcap_jax.decoding.sampling import filter_scores

from .toy_model import Weights, empty_cache, make_next_logits, reorder

END, PAD, VOCABULARY = 2, 1, 11


def draw(weights, image, seed=0, start=((END,),), bad_words=(), **config):
    config = DecodingConfig(do_sample=True, **{"max_length": 8, **config})
    start = jnp.broadcast_to(jnp.array(start, jnp.int32), (len(image), len(start[0])))
    keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(seed), i))(jnp.arange(len(image)))
    model = DecodingModel(make_next_logits(weights), reorder, empty_cache(weights, len(image)), image)
    return jax.device_get(jax.jit(lambda: sample(model, start, Rules(config, END, PAD, bad_words), keys))())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 3, 10, 40]),
    top_p=st.sampled_from([1.0, 0.9, 0.3, 0.01]),
    min_p=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_what_may_be_drawn_is_what_transformers_allows(seed, temperature, top_k, top_p, min_p):
    torch = pytest.importorskip("torch")
    warpers = pytest.importorskip("transformers.generation.logits_process")
    scores = np.random.default_rng(seed).normal(0, 2, (2, 3, 40)).astype(np.float32)
    ours = filter_scores(
        jnp.asarray(scores), DecodingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    )
    theirs = warpers.TemperatureLogitsWarper(temperature)(None, torch.from_numpy(scores.reshape(6, 40)))
    if top_k:
        theirs = warpers.TopKLogitsWarper(top_k)(None, theirs)
    if top_p < 1:
        theirs = warpers.TopPLogitsWarper(top_p)(None, theirs)
    if min_p:
        theirs = warpers.MinPLogitsWarper(min_p)(None, theirs)
    np.testing.assert_allclose(ours.reshape(6, 40), theirs.numpy(), rtol=1e-6)


def test_captions_are_drawn_as_often_as_they_are_likely():
    weights = Weights.draw(3, VOCABULARY, end_id=END, end_bias=2.0)
    image = np.random.default_rng(3).normal(size=(1, 8)).astype(np.float32)
    found = draw(weights, image, num_return_sequences=20_000, max_length=4)
    rows, places, counts = np.unique(found.tokens[0], axis=0, return_index=True, return_counts=True)
    probabilities = np.exp(found.token_log_probs[0, places].sum(-1))
    assert probabilities.sum() == pytest.approx(1, abs=0.01)
    assert len(rows) > 50
    deviations = (counts - 20_000 * probabilities) / np.sqrt(20_000 * probabilities)
    assert np.mean(deviations[counts > 20] ** 2) < 2


def test_an_example_is_drawn_alike_in_any_batch_and_otherwise_by_another_seed():
    weights = Weights.draw(9, VOCABULARY, end_id=END, end_bias=1.0)
    image = np.random.default_rng(1).normal(size=(4, 8)).astype(np.float32)
    together = draw(weights, image, num_return_sequences=3)
    alone = draw(weights, image[:1], num_return_sequences=3)
    np.testing.assert_array_equal(together.tokens[0], alone.tokens[0])
    assert not np.array_equal(together.tokens, draw(weights, image, seed=1, num_return_sequences=3).tokens)
    assert len({row.tobytes() for row in together.tokens[0]}) > 1


def test_rules_hold_and_what_is_returned_describes_itself():
    weights = Weights.draw(5, VOCABULARY, end_id=END, end_bias=1.0)
    image = np.random.default_rng(5).normal(size=(3, 8)).astype(np.float32)
    found = draw(
        weights,
        image,
        start=((END, 7),),
        bad_words=((4,),),
        num_return_sequences=50,
        min_length=5,
        no_repeat_ngram_size=1,
        length_penalty=0.5,
    )
    lengths = found.lengths.reshape(-1)
    for row, length in zip(found.tokens.reshape(-1, 8), lengths, strict=True):
        body = row[:length]
        assert body[:2].tolist() == [END, 7]
        assert 4 not in body
        assert length >= 5
        assert len(set(body[1:].tolist())) == length - 1
        assert (row[length:] == PAD).all()
    generated = (np.arange(8) >= 2) & (np.arange(8) < lengths[:, None])
    assert ((found.token_log_probs.reshape(-1, 8) < 0) == generated).all()
    expected = found.token_log_probs.sum(-1) / (found.lengths - 2) ** 0.5
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)


def test_the_likeliest_alone_is_greedy_search():
    weights = Weights.draw(7, VOCABULARY, end_id=END)
    image = np.random.default_rng(7).normal(size=(2, 8)).astype(np.float32)
    one, many = (draw(weights, image, num_return_sequences=n, top_k=1) for n in (1, 4))
    assert (many.tokens == one.tokens).all()
