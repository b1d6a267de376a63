"""The language model against transformers' GPT-2, and against itself."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.errors import ConfigError
from dualcap_jax.models.language_models.gpt2 import FlaxGPT2Model, GPT2Config

SMALL = GPT2Config(vocab_size=97, max_positions=24, width=32, layers=3, heads=4, dropout=0.0)


def published_name(path: tuple) -> str:
    """Our path of a parameter -> transformers' name."""
    names = {"token_embedding": "wte.weight", "position_embedding": "wpe.weight"}
    if path[0] in names:
        return names[path[0]]
    modules = {
        "attention_norm": "ln_1",
        "mlp_norm": "ln_2",
        "final_norm": "ln_f",
        "mlp_expand": "mlp.c_fc",
        "mlp_project": "mlp.c_proj",
        "qkv": "attn.c_attn",
        "project": "attn.c_proj",
        "scale": "weight",
        "kernel": "weight",
        "blocks": "h",
    }
    return ".".join(modules.get(str(part), str(part)) for part in path if part != "attention")


def torch_twin(config: GPT2Config):
    """transformers' GPT-2 with random weights (biases and norms too), and ours with the same."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    twin = transformers.GPT2Model(
        transformers.GPT2Config(
            vocab_size=config.vocab_size,
            n_positions=config.max_positions,
            n_embd=config.width,
            n_layer=config.layers,
            n_head=config.heads,
        )
    ).eval()
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    weights = {name: value.numpy() for name, value in twin.state_dict().items()}
    model = FlaxGPT2Model(config, rngs=nnx.Rngs(0))
    state = nnx.to_flat_state(nnx.state(model, nnx.Param))
    ported = {published_name(path): variable for path, variable in state}
    assert set(ported) == {name for name in weights if name in dict(twin.named_parameters())}
    for name, variable in ported.items():
        value = weights[name].T if name.endswith(("c_attn.weight", "c_fc.weight", "c_proj.weight")) else weights[name]
        assert variable[...].shape == value.shape
        variable[...] = jnp.asarray(value)
    return (
        model,
        lambda *args, **kwargs: twin(*map(torch.from_numpy, args), **kwargs).last_hidden_state.detach().numpy(),
    )


def test_scaled_embeddings_are_those_that_transformers_is_given(rng):
    config = replace(SMALL, embedding_scale=7.0)
    torch = pytest.importorskip("torch")
    model, twin = torch_twin(config)
    tokens = rng.integers(0, config.vocab_size, (3, 20))
    embeddings = torch.tensor(7 * np.asarray(model.token_embedding[...])[tokens])
    assert relative_error(model.hidden(jnp.asarray(tokens)), twin(inputs_embeds=embeddings)) < 1e-5
    with pytest.raises(ConfigError, match=r"model.language.embedding_scale=7.0: must be 1 with model.language.pret"):
        replace(config, pretrained="gpt2")


def relative_error(ours, theirs) -> float:
    return float(np.abs(np.asarray(ours, np.float32) - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        GPT2Config(97, 24, 80, 3, 4, dropout=0.0),
        pytest.param(GPT2Config(dropout=0.0), marks=pytest.mark.slow, id="small, as published"),
    ],
)
def test_hidden_states_are_those_of_transformers(config, rng):
    model, twin = torch_twin(config)
    tokens = rng.integers(0, config.vocab_size, (3, 20))
    assert relative_error(model.hidden(tokens), twin(tokens)) < 1e-5


def test_masked_positions_are_not_attended_to(rng):
    torch = pytest.importorskip("torch")
    model, twin = torch_twin(SMALL)
    tokens = rng.integers(0, 97, (3, 20))
    mask = np.arange(20) < np.array([[20], [11], [1]])
    theirs = twin(tokens, attention_mask=torch.from_numpy(mask.astype(np.int64)))
    assert relative_error(model.hidden(tokens, mask), theirs) < 1e-5
    changed = np.where(mask, tokens, (tokens + 1) % 97)
    np.testing.assert_allclose(
        np.where(mask[..., None], model.hidden(changed, mask), 0),
        np.where(mask[..., None], model.hidden(tokens, mask), 0),
        atol=1e-6,
    )


def test_bfloat16_stays_near(rng):
    model, twin = torch_twin(SMALL)
    half = FlaxGPT2Model(SMALL, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))
    nnx.update(half, nnx.state(model))
    tokens = rng.integers(0, 97, (3, 20))
    assert half.hidden(tokens).dtype == jnp.bfloat16
    assert relative_error(half.hidden(tokens), twin(tokens)) < 2e-2


@pytest.mark.parametrize("choice", [2, 97])
def test_steps_with_a_cache_give_what_the_whole_sequence_gives(choice, rng):
    """Beams go on from one another, the first token from one alone; each ends with its own sequence's hidden state.

    With two tokens to choose from, prefixes are equal within images and between them. One beam is given up half-way.
    """
    model = FlaxGPT2Model(SMALL, rngs=nnx.Rngs(0))
    batch, beams, length = 3, 5, 12
    step = jax.jit(lambda *args: model.step(*args))
    whole_pass = jax.jit(lambda tokens: model.hidden(tokens))
    cache = model.init_cache(batch, beams, 16)
    sequences = rng.integers(0, choice, (batch, 1, 1))
    for position in range(length):
        tokens = sequences[:, :, position].copy()
        if position >= 6:
            tokens[1] = -1
        hidden, cache = step(tokens, jnp.int32(position), cache)
        there = (tokens >= 0).reshape(-1)
        prefixes = sequences.reshape(-1, position + 1)[there]
        assert cache.rows.max() + 1 == len(np.unique(prefixes, axis=0)) + (position >= 6)
        padded = np.zeros((batch * sequences.shape[1], length), int)  # what comes after changes nothing
        padded[:, : position + 1] = sequences.reshape(-1, position + 1)
        whole = whole_pass(padded)[:, position]
        np.testing.assert_allclose(hidden.reshape(whole.shape)[there], whole[there], rtol=1e-5, atol=2e-6)
        ancestors = rng.integers(0, sequences.shape[1], (batch, beams))
        cache = model.reorder_cache(cache, ancestors)
        new = rng.integers(0, choice, (batch, beams, 1))
        sequences = np.concatenate([np.take_along_axis(sequences, ancestors[:, :, None], 1), new], 2)


@pytest.mark.parametrize("remat", ["blocks", "products"])
def test_remat_changes_neither_values_nor_gradients_nor_dropout(rng, remat):
    tokens = rng.integers(0, 97, (2, 10))

    def loss_and_grad(remat):
        config = GPT2Config(97, 24, 32, 2, 4, 0.3, remat=remat)
        graph, params = nnx.split(FlaxGPT2Model(config, rngs=nnx.Rngs(0)))
        key = jax.random.key(1)
        return jax.value_and_grad(lambda p: jnp.sum(nnx.merge(graph, p).hidden(tokens, None, key) ** 3))(params)

    for plain, ours in zip(*map(jax.tree.leaves, (loss_and_grad("none"), loss_and_grad(remat))), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


def test_dropout_needs_a_key_and_follows_it(rng):
    model = FlaxGPT2Model(GPT2Config(97, 24, 32, 2, 4, 0.5), rngs=nnx.Rngs(0))
    tokens = rng.integers(0, 97, (2, 10))
    once, again, other = (model.hidden(tokens, None, jax.random.key(seed)) for seed in (0, 0, 1))
    assert jnp.array_equal(once, again)
    assert not jnp.allclose(once, other)
    assert not jnp.allclose(once, model.hidden(tokens))


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_initial_kernels_have_the_deviation_set_and_those_of_the_residual_stream_less(deviation):
    config = GPT2Config(500, 64, width=128, layers=2, heads=4, init_deviation=deviation)
    model = FlaxGPT2Model(config, rngs=nnx.Rngs(0))
    block = model.blocks[0]
    for kernel in (
        model.token_embedding,
        model.position_embedding,
        block.attention.qkv.kernel,
        block.mlp_expand.kernel,
    ):
        assert float(kernel[...].std()) == pytest.approx(deviation, rel=0.03)
    for layer in (block.attention.project, block.mlp_project):
        assert float(layer.kernel[...].std()) == pytest.approx(deviation / 4**0.5, rel=0.03)


def test_a_sequence_longer_than_the_positions_is_refused():
    model = FlaxGPT2Model(SMALL, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"25 tokens.*max_positions is 24"):
        model.hidden(jnp.zeros((1, 25), int))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("heads", 5, r"model.language.heads=5: must divide model.language.width=32"),
        ("layers", 0, r"model.language.layers=0: must be at least 1"),
        ("dropout", 1.0, r"model.language.dropout=1.0: must be in \[0, 1\)"),
        ("init_deviation", 0.0, r"model.language.init_deviation=0.0: must be more than 0"),
    ],
)
def test_impossible_shapes_name_the_field(field, value, message):
    with pytest.raises(ValueError, match=message):
        GPT2Config(**{"width": 32, "heads": 4, field: value})


def test_gpt2_small_has_its_124_million_parameters():
    model = nnx.eval_shape(lambda: FlaxGPT2Model(GPT2Config(), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 124_439_808
