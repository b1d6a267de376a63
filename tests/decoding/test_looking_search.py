"""Beam search with the merger that looks against transformers' `generate` with torch's attention in its place."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dualcap_jax import inference
from dualcap_jax.decoding import DecodingConfig, Rules
from dualcap_jax.models import variables
from dualcap_jax.models.encoders import Encoded
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.variables import bind
from dualcap_jax.pretrained import gpt2
from dualcap_jax.pretrained.tables import export
from tests.training.tiny import tiny_model

from .toy_model import generate_arguments

torch = pytest.importorskip("torch")

END = 59


@pytest.mark.parametrize(("beams", "batch", "early_stopping"), [(1, 3, True), (5, 3, False), (64, 1, "never")])
def test_captions_and_scores_are_those_of_generate(beams, batch, early_stopping):
    from transformers import GPT2Config as TheirConfig

    from scripts.torch_peer import Looking, TorchCaptioner

    config = tiny_model(kind="attention", heads=4, grid=2, init_gain=3.0, standardize=True)
    config = replace(
        config,
        encoder=replace(config.encoder, num_classes=0),
        language=GPT2Config(60, 16, 32, 2, 4, embedding_scale=3.0),
    )
    model = variables.init(config, 3)
    model["params"]["language"]["token_embedding"] *= 5  # a language that is sure of what it says
    features = bind(config, model).encoder.num_features
    maps = np.random.default_rng(beams).standard_normal((batch, 2, 2, features)).astype(np.float32)

    sizes = {"vocab_size": 60, "n_positions": 16, "n_embd": 32, "n_layer": 2, "n_head": 4}
    shape = TheirConfig(**sizes, bos_token_id=END, eos_token_id=END, pad_token_id=END)
    for stat, value in (("mean", 0.3), ("square", 4.0)):
        model["batch_stats"]["merger"]["standardize"][stat] += value
        model["batch_stats"]["merger"]["places"][0]["standardize"][stat] += value
    params, stats = (jax.device_get(model[kind]["merger"]) for kind in ("params", "batch_stats"))
    looking = Looking(params, 4, stats=stats)
    peer = TorchCaptioner(shape, None, looking=looking, embedding_scale=3.0).eval()
    tensors = export(gpt2.table(config.language, "transformer."), {"params": model["params"]["language"]})
    weights = {name: torch.tensor(np.asarray(value)) for name, value in tensors.items()}
    peer.load_state_dict(weights | {"lm_head.weight": weights["transformer.wte.weight"]}, strict=False)

    settings = DecodingConfig(
        beams, 12, no_repeat_ngram_size=2, early_stopping=early_stopping, num_return_sequences=min(beams, 3)
    )
    with torch.inference_mode():
        theirs = peer.generate(
            torch.full((batch, 1), END),
            image_features=torch.from_numpy(maps.reshape(batch, -1, features)),
            attention_mask=torch.ones(batch, 1, dtype=torch.long),
            **generate_arguments(settings, END, END),
        )
    keys = jax.random.split(jax.random.key(0), batch)
    seen = bind(config, model).look(Encoded(jnp.asarray(maps.mean((1, 2))), {32: jnp.asarray(maps)}))
    ours = jax.device_get(inference.search(config, model, seen, jnp.array([END]), keys, Rules(settings, END, END)))
    tokens = theirs.sequences.numpy()
    tokens = np.pad(tokens, ((0, 0), (0, 12 - tokens.shape[1])), constant_values=END)
    assert len(np.unique(tokens, axis=0)) > 1
    np.testing.assert_array_equal(ours.tokens.reshape(-1, 12), tokens)
    if beams > 1:
        np.testing.assert_allclose(ours.scores.reshape(-1), theirs.sequences_scores.numpy(), rtol=1e-4, atol=1e-4)
