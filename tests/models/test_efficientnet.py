"""The encoder against efficientnet-pytorch, and against its own promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models.encoders.efficientnet import VARIANTS, EfficientNet, EfficientNetConfig, round_filters

from .torch_encoder import pictures as coarse_pictures
from .torch_encoder import published_name, to_ours, twins

TINY = {"width": 0.25, "depth": 0.2, "num_classes": 7}


def build(dtype=jnp.float32, **config):
    return nnx.jit(lambda: EfficientNet(EfficientNetConfig(**{**TINY, **config}), dtype=dtype, rngs=nnx.Rngs(0)))()


def pictures(batch=3, size=32, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (batch, size, size, 3), np.uint8)


def apply(model, images, key=None, train=False):
    """Features, and the batch statistics after the call; the model stays as it was."""
    graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

    @jax.jit
    def run(params, stats, images, key):
        network = nnx.merge(graph, params, stats, copy=True)
        features = network.vector(images, train=train, key=key)
        return features, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    return run(params, stats, images, key)


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        ("b0", 224),
        ("b0", 75),
        ("b1", 75),
        pytest.param("b1", 240, marks=pytest.mark.slow),
        pytest.param("b4", 127, marks=pytest.mark.slow),
        pytest.param("b4", 380, marks=pytest.mark.slow),
        pytest.param("b7", 131, marks=pytest.mark.slow),
        pytest.param("b7", 600, marks=pytest.mark.slow),
    ],
)
def test_features_are_those_of_efficientnet_pytorch(variant, size, rng):
    torch = pytest.importorskip("torch")
    twin, ours = twins(variant, size)
    x = coarse_pictures(2, size, rng)
    with torch.inference_mode():
        theirs = twin(torch.from_numpy(x.transpose(0, 3, 1, 2))).numpy()
    features, _ = apply(ours, x)
    assert np.abs(theirs[0] - theirs[1]).max() > 0.1 * np.abs(theirs).max()  # the pictures matter
    assert np.abs(features - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("variant", ["b0", "b1", pytest.param("b4", marks=pytest.mark.slow)])
def test_a_training_pass_has_the_gradients_and_statistics_of_efficientnet_pytorch(variant, rng):
    """The peer's in float64: gradients through batch norm of random networks lose much in rounding."""
    torch = pytest.importorskip("torch")
    size = 75
    twin, ours = twins(variant, size)
    twin = twin.double().train()
    x = coarse_pictures(4, size, rng)
    target = rng.standard_normal((4, 1000)).astype(np.float32)
    loss = (twin(torch.from_numpy(x.transpose(0, 3, 1, 2)).double()) * torch.from_numpy(target).double()).mean()
    loss.backward()
    graph, params, stats = nnx.split(ours, nnx.Param, nnx.BatchStat)

    @jax.jit
    @jax.grad
    def grads_and_stats(params):
        network = nnx.merge(graph, params, stats, copy=True)
        return jnp.mean(network.vector(x, train=True) * target)

    theirs = {name: p.grad.numpy() for name, p in twin.named_parameters()}
    squares = total = 0.0
    for path, leaf in nnx.to_flat_state(grads_and_stats(params)):
        name = published_name(path)
        reference = to_ours(name, theirs[name], leaf[...].shape)
        squares += np.square(np.asarray(leaf[...], np.float64) - reference).sum()
        total += np.square(reference).sum()
    assert (squares / total) ** 0.5 < 1e-3

    state = {name: value.numpy() for name, value in twin.state_dict().items()}
    _, learnt = apply(ours, x, train=True)
    for path, leaf in jax.tree_util.tree_leaves_with_path(learnt):
        name = published_name(tuple(key.key for key in path))
        np.testing.assert_allclose(leaf, state[name], rtol=2e-3, atol=2e-4, err_msg=name)


@pytest.mark.parametrize(
    ("variant", "parameters"),
    [
        ("b0", 5_288_548),
        ("b1", 7_794_184),
        ("b4", 19_341_616),
        ("b7", 66_347_960),
        ("lite0", 4_652_008),
        ("lite4", 13_006_568),
    ],
)
def test_published_sizes(variant, parameters):
    model = nnx.eval_shape(lambda: EfficientNet(EfficientNetConfig(variant), rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == parameters


def test_b4_has_its_published_shape():
    config = EfficientNetConfig("b4", num_classes=0)
    model = nnx.eval_shape(lambda: EfficientNet(config, rngs=nnx.Rngs(0)))
    assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == 17_548_616
    assert len(model.blocks) == 32
    assert model.num_features == 1792
    assert [round_filters(c, 1.4) for c in (16, 24, 40, 80, 112, 192, 320)] == [24, 32, 56, 112, 160, 272, 448]


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("b5", "b6", "b7", "b8")])
def test_every_variant_runs(variant):
    def run():
        return EfficientNet(EfficientNetConfig(variant), rngs=nnx.Rngs(0)).vector(jnp.zeros((2, 64, 64, 3), jnp.uint8))

    assert jax.eval_shape(run).shape == (2, 1000)


@pytest.mark.parametrize(
    ("normalization", "expected"),
    [
        ("advprop", lambda x: x / 127.5 - 1),
        ("imagenet", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("lite", lambda x: (x - 127) / 128),
    ],
)
def test_bytes_are_normalised_on_the_way_in(normalization, expected):
    model, images = build(normalization=normalization), pictures()
    bytes_in, _ = apply(model, images)
    floats_in, _ = apply(model, expected(images.astype(np.float64)).astype(np.float32))
    np.testing.assert_allclose(bytes_in, floats_in, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("remat", ["blocks", "convolutions"])
def test_remat_keeps_statistics_gradients_and_dropped_blocks(remat):
    images, key = pictures(4), jax.random.key(3)

    def run(remat):
        model = build(remat=remat, dropout=0.3, drop_connect=0.5, depth=0.4)
        graph, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)

        @jax.jit
        @partial(jax.value_and_grad, has_aux=True)
        def loss(params):
            network = nnx.merge(graph, params, stats, copy=True)
            features = network.vector(images, train=True, key=key)
            return jnp.sum(features**2), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

        (value, learnt), grads = loss(params)
        return [value], jax.tree.leaves(learnt), jax.tree.leaves(grads)

    for plain, ours in zip(run("none"), run(remat), strict=True):
        squares = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(plain, ours, strict=True))
        assert squares <= 1e-6 * sum(float(jnp.sum(a**2)) for a in plain)


def test_remat_keeps_the_less_the_more_it_recomputes():
    images, key = pictures(4), jax.random.key(3)

    def kept(remat):
        graph, params, stats = nnx.split(build(remat=remat), nnx.Param, nnx.BatchStat)

        def vector(params):
            return nnx.merge(graph, params, stats, copy=True).vector(images, train=True, key=key)

        shapes = jax.eval_shape(lambda params: jax.vjp(vector, params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(shapes))

    blocks, convolutions, everything = map(kept, ("blocks", "convolutions", "none"))
    assert blocks < convolutions < everything


def test_training_uses_the_batch_and_frozen_batch_norm_does_not():
    images = pictures(4)
    free, frozen = build(dropout=0.0, drop_connect=0.0), build(dropout=0.0, drop_connect=0.0, batch_norm="frozen")
    before = nnx.to_pure_dict(nnx.state(free, nnx.BatchStat))
    for model, learns in ((free, True), (frozen, False)):
        features, stats = apply(model, images, train=True)
        same = jax.tree.leaves(jax.tree.map(np.array_equal, before, stats))
        assert (not any(same)) if learns else all(same)
        assert np.allclose(features, apply(model, images)[0]) == (not learns)


def test_drop_connect_leaves_whole_examples_out_and_keeps_the_mean():
    model = build(dropout=0.0, drop_connect=0.9, depth=0.4, batch_norm="frozen")
    images = np.repeat(pictures(1), 32, 0)
    features, _ = apply(model, images, jax.random.key(0), train=True)
    assert len(np.unique(np.asarray(features)[:, 0])) > 4  # the same picture, blocks dropped by example
    again, _ = apply(model, images, jax.random.key(0), train=True)
    np.testing.assert_array_equal(features, again)
    with pytest.raises(ValueError, match="needs a key"):
        apply(model, images, train=True)


def test_bfloat16_keeps_float32_parameters_and_statistics():
    model = build(jnp.bfloat16, dropout=0.0, drop_connect=0.0)
    features, stats = apply(model, pictures(), train=True)
    assert features.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    near, _ = apply(model, pictures())
    exact, _ = apply(build(dropout=0.0, drop_connect=0.0), pictures())
    assert np.abs(near.astype(np.float32) - exact).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "b9"}, "model.encoder.variant='b9': must be 'b0'"),
        ({"width": 0.0}, "model.encoder.width=0.0: must be more than 0"),
        ({"dropout": 1.0}, r"model.encoder.dropout=1.0: must be in \[0, 1\)"),
        ({"num_classes": -1}, "model.encoder.num_classes=-1: must be at least 0"),
    ],
)
def test_impossible_settings_name_the_field(settings, message):
    with pytest.raises(ValueError, match=message):
        EfficientNetConfig(**settings)
