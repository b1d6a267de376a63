"""Beam search of the whole network, cache and merger included, against the PyTorch peer's `generate`."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax.decoding import DecodingConfig, DecodingModel, Rules, beam_search
from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.pretrained.original import load_original
from tests.pretrained.test_original import original_names, peer_network

from .toy_model import generate_arguments

torch = pytest.importorskip("torch")

SMALL = {"vocab_size": 97, "n_positions": 40, "n_embd": 64, "n_layer": 3, "n_head": 4}


@cache
def twins(size: str):
    """The peer, and ours with its weights, as a function of image vectors and settings."""
    peer = peer_network("b0", 64, **SMALL if size == "small" else {})
    shape = peer.config
    end_id = shape.vocab_size - 1
    if size == "small":
        with torch.no_grad():
            peer.transformer.wte.weight *= 3  # a language that is as sure of what it says as a wide one
    config = ModelConfig(
        EfficientNetConfig("b0"),
        GPT2Config(shape.vocab_size, shape.n_positions, shape.n_embd, shape.n_layer, shape.n_head),
        MergerConfig(hidden=(384, 256), positions=40),
    )
    tensors = {name: value.numpy() for name, value in original_names(peer).items()}
    model = load_original(config, variables.init(config, 0), tensors, "peer")

    def search(features, settings):
        @jax.jit
        def run(model):
            network = variables.bind(config, model)
            cache = network.init_cache(len(features), settings.num_beams, settings.max_length)
            start = jnp.full((len(features), 1), end_id, jnp.int32)
            decoded = DecodingModel(network.next_logits, network.reorder_cache, cache, jnp.asarray(features))
            return beam_search(decoded, start, Rules(settings, end_id, end_id))

        return jax.device_get(run(model))

    return peer, search


@pytest.mark.parametrize(
    ("size", "beams", "batch", "early_stopping", "penalty", "ngrams"),
    [
        ("small", 1, 7, True, 1.0, 2),
        ("small", 5, 7, True, 1.0, 2),
        ("small", 5, 1, False, 0.6, 3),
        ("small", 5, 7, "never", 2.0, 0),
        ("small", 64, 7, False, 1.0, 3),
        ("small", 64, 1, "never", 0.6, 2),
        ("small", 256, 1, True, 1.0, 2),
        ("small", 256, 1, False, 2.0, 0),
        pytest.param("as published", 5, 7, True, 1.0, 2, marks=pytest.mark.slow),
        pytest.param("as published", 64, 1, "never", 0.6, 2, marks=pytest.mark.slow),
    ],
)
def test_captions_and_scores_are_those_of_generate(size, beams, batch, early_stopping, penalty, ngrams):
    peer, search = twins(size)
    end_id = peer.config.vocab_size - 1
    features = np.random.default_rng(beams + batch).standard_normal((batch, 1000)).astype(np.float32)
    settings = DecodingConfig(
        beams,
        12,
        ngrams,
        length_penalty=penalty,
        early_stopping=early_stopping,
        num_return_sequences=min(beams, 3),
    )
    with torch.inference_mode():
        theirs = peer.generate(
            torch.full((batch, 1), end_id),
            image_features=torch.from_numpy(features),
            attention_mask=torch.ones(batch, 1, dtype=torch.long),
            **generate_arguments(settings, end_id, end_id),
        )
    ours = search(features, settings)
    tokens = theirs.sequences.numpy()
    tokens = np.pad(tokens, ((0, 0), (0, 12 - tokens.shape[1])), constant_values=end_id)
    np.testing.assert_array_equal(ours.tokens.reshape(-1, 12), tokens)
    if beams > 1:
        np.testing.assert_allclose(ours.scores.reshape(-1), theirs.sequences_scores.numpy(), rtol=1e-4, atol=1e-4)
