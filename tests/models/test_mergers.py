"""What every merger promises: causality, one position at a time, an image shared, the skip, its published widths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models import mergers
from dualcap_jax.models.mergers import KINDS, MergerConfig, PositionBatchNorm, Positions

merge = nnx.jit(mergers.merge, static_argnums=4)
merge_step = nnx.jit(mergers.merge_step)

FEATURES, WIDTH, BATCH, CAPTIONS, LENGTH = 10, 12, 3, 2, 9
VARIANTS = [(kind, norm) for kind in ("skip_mlp", "two_stream") for norm in ("none", "layer", "batch")]
VARIANTS += [("gru", "none"), ("gru_two_stream", "none")]


def build(kind, norm, dtype=jnp.float32):
    """A merger whose parameters are all random, so that no part of it is silent."""
    hidden = {"skip_mlp": (8, 6), "gru": (7, 7)}.get(kind, (8, 6, 5))
    config = MergerConfig(kind, hidden, norm, positions=LENGTH)
    merger = KINDS[kind](config, FEATURES, WIDTH, dtype=dtype, rngs=nnx.Rngs(0))
    params = nnx.state(merger, nnx.Param)
    keys = iter(jax.random.split(jax.random.key(1), 100))
    nnx.update(merger, jax.tree.map(lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), params))
    return merger


@pytest.fixture
def inputs(rng):
    image = rng.standard_normal((BATCH, FEATURES)).astype(np.float32)
    hidden = rng.standard_normal((BATCH, CAPTIONS, LENGTH, WIDTH)).astype(np.float32)
    mask = np.arange(LENGTH) < rng.integers(4, LENGTH + 1, (BATCH, CAPTIONS, 1))
    return image, hidden, mask


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_a_position_sees_nothing_of_later_ones(kind, norm, train, inputs):
    image, hidden, mask = inputs
    merger, cut = build(kind, norm), 4
    changed = hidden.copy()
    changed[..., cut:, :] += 1
    before, after = (merge(merger, image, h, mask, train) for h in (hidden, changed))
    np.testing.assert_allclose(before[..., :cut, :], after[..., :cut, :], atol=1e-6)
    assert np.abs(before - after)[..., cut:, :].max() > 0.1


@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_gradients_reach_no_later_position(kind, norm, inputs):
    image, hidden, mask = inputs
    merger = build(kind, norm)
    graph, state = nnx.split(merger)

    @jax.jit
    def grad_at_4(hidden):
        return jax.grad(
            lambda h: jnp.sum(mergers.merge(nnx.merge(graph, state, copy=True), image, h, mask, True)[..., 4, :])
        )(hidden)

    grads = grad_at_4(hidden)
    assert np.abs(grads[..., 5:, :]).max() == 0
    assert np.abs(grads[..., 4, :]).max() > 0


@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_one_position_at_a_time_gives_what_the_whole_caption_gives(kind, norm, inputs):
    image, hidden, mask = inputs
    merger = build(kind, norm)
    merge(merger, image, hidden, mask, True)  # statistics that are not the initial ones
    whole = merge(merger, image, hidden, mask)
    state = merger.init_state(BATCH, CAPTIONS)
    for position in range(LENGTH):
        merged, state = merge_step(merger, image, hidden[:, :, position], jnp.int32(position), state)
        np.testing.assert_allclose(merged, whole[:, :, position], atol=1e-5)


@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_the_image_matters_and_captions_share_it(kind, norm, inputs):
    image, hidden, mask = inputs
    merger = build(kind, norm)
    whole = merge(merger, image, hidden, mask)
    alone = merge(merger, image, hidden[:, 1:], mask[:, 1:])
    np.testing.assert_allclose(whole[:, 1:], alone, atol=1e-6)
    assert np.abs(whole - merge(merger, image[::-1], hidden, mask)).max() > 0.01


@pytest.mark.parametrize(("kind", "norm"), VARIANTS)
def test_the_hidden_state_skips_the_merger(kind, norm, inputs):
    """With its decoders at zero, a merger passes GPT-2's hidden state through."""
    image, hidden, mask = inputs
    merger = build(kind, norm)
    params = nnx.to_flat_state(nnx.state(merger, nnx.Param))
    for path, variable in params:
        if "decoder" in path:
            variable[...] = jnp.zeros_like(variable[...])
    np.testing.assert_allclose(merge(merger, image, hidden, mask), hidden, atol=1e-6)


def test_skip_mlp_computes_the_published_formula(inputs):
    image, hidden, mask = inputs
    merger = build("skip_mlp", "none")
    weights = [
        (np.asarray(linear.kernel[...]), np.asarray(linear.bias[...]))
        for unit in (merger.first, merger.second)
        for linear in (unit.encoder, unit.decoder)
    ]
    (w1, b1), (w2, b2), (w3, b3), (w4, b4) = weights
    z = np.concatenate([np.broadcast_to(image[:, None, None], (*hidden.shape[:3], FEATURES)), hidden], -1)
    h1 = np.maximum(z @ w1 + b1, 0) @ w2 + b2 + hidden
    h2 = np.maximum(h1 @ w3 + b3, 0) @ w4 + b4 + h1
    np.testing.assert_allclose(merge(merger, image, hidden, mask), h2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_gru_layers_are_those_of_torch(layer, rng):
    torch = pytest.importorskip("torch")
    merger = build("gru", "none")
    unit = getattr(merger, layer)
    inputs = unit.encoder.kernel[...].shape[0]
    twin = torch.nn.GRU(inputs, unit.hidden, batch_first=True)
    with torch.no_grad():
        for name, linear in (("ih", unit.encoder), ("hh", unit.recurrent)):
            getattr(twin, f"weight_{name}_l0").copy_(torch.tensor(np.asarray(linear.kernel[...]).T))
            getattr(twin, f"bias_{name}_l0").copy_(torch.tensor(np.asarray(linear.bias[...])))
    x = rng.standard_normal((4, LENGTH, inputs)).astype(np.float32)
    state = unit.init_state(4, 1)
    ours = []
    for position in range(LENGTH):
        _, state = unit(unit.encoder(x[:, None, position : position + 1]), state, Positions())
        ours.append(state[:, 0])
    np.testing.assert_allclose(np.stack(ours, 1), twin(torch.from_numpy(x))[0].detach().numpy(), rtol=1e-4, atol=1e-5)


def test_batch_norm_reads_real_tokens_alone_and_keeps_their_statistics(rng):
    norm = PositionBatchNorm(LENGTH, 5, dtype=jnp.float32)
    x = 3 + 2 * rng.standard_normal((50, 4, LENGTH, 5)).astype(np.float32)
    mask = np.ones((50, 4, LENGTH), bool)
    mask[10:, :, 6] = False
    mask[:, :, 7:] = False

    normalized = np.asarray(norm(jnp.asarray(x), Positions(jnp.asarray(mask), train=True)))
    real = normalized[:10, :, 6].reshape(-1, 5)
    np.testing.assert_allclose(real.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(real.std(0), 1, atol=1e-3)
    sample = x[:10, :, 6].reshape(-1, 5)
    np.testing.assert_allclose(norm.mean[...][6], 0.1 * sample.mean(0), rtol=1e-4)
    np.testing.assert_allclose(norm.var[...][6], 0.9 + 0.1 * sample.var(0, ddof=1), rtol=1e-4)
    np.testing.assert_array_equal(norm.mean[...][7:], 0)  # no real token there: nothing learnt


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        # (inputs + 1) * outputs of each dense layer
        ("skip_mlp", 1769 * 384 + 385 * 768 + 769 * 256 + 257 * 768),
        ("two_stream", 2 * 1769 * 384 + 385 * 1000 + 385 * 768 + 1769 * 512 + 513 * 768),
        # torch's GRU: 3 gates, weights and biases for input and state
        ("gru", 3 * 384 * (1768 + 384 + 2) + 3 * 384 * (384 + 384 + 2) + 385 * 768),
        (
            "gru_two_stream",
            2 * 3 * 256 * (1768 + 256 + 2) + 257 * 1000 + 257 * 768 + 3 * 384 * (1768 + 384 + 2) + 385 * 768,
        ),
    ],
)
def test_published_widths(kind, parameters):
    build = lambda: KINDS[kind](MergerConfig(kind), 1000, 768, dtype=jnp.float32, rngs=nnx.Rngs(0))  # noqa: E731
    params = nnx.state(nnx.eval_shape(build), nnx.Param)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters


@pytest.mark.parametrize(("settings", "gain"), [({}, 0.1), ({"init_gain": 1.0}, 1.0)])
def test_initial_weights_are_xavier_normal_with_the_original_s_gain_unless_set(settings, gain):
    merger = KINDS["skip_mlp"](MergerConfig(**settings), 1000, 768, dtype=jnp.float32, rngs=nnx.Rngs(0))
    kernel, bias = merger.first.encoder.kernel[...], merger.first.encoder.bias[...]
    assert float(kernel.std()) == pytest.approx(gain * (2 / (1768 + 384)) ** 0.5, rel=0.02)
    assert float(jnp.abs(bias).max()) == pytest.approx(1768**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": (3,)}, r"model.merger.hidden=\(3,\): skip_mlp takes 2 widths"),
        ({"kind": "gru", "hidden": (3, 4)}, "the two layers of gru have one width"),
        ({"kind": "gru", "norm": "layer"}, "model.merger.norm='layer': gru has no norm"),
        ({"positions": 0}, "model.merger.positions=0: must be at least 1"),
        ({"init_gain": 0.0}, "model.merger.init_gain=0.0: must be more than 0"),
    ],
)
def test_impossible_settings_name_the_field(settings, message):
    with pytest.raises(ValueError, match=message):
        MergerConfig(**settings)
