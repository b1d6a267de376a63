"""The merger that looks: torch's attention, and all that a language model that never sees the image gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models import variables
from dualcap_jax.models.encoders import Encoded
from dualcap_jax.models.mergers import KINDS, MergerConfig
from dualcap_jax.models.variables import bind

from ..training.tiny import random_batch, tiny_model

LOOKING = {"kind": "attention", "heads": 2, "strides": (16, 32), "grid": 3, "rounds": 2, "standardize": True}


@pytest.fixture(scope="module")
def network():
    config = tiny_model(**LOOKING)
    model = jax.tree.map(lambda leaf: leaf + 0.01, variables.init(config, 0))  # no mean is 0, no norm is trivial
    return bind(config, model)


def test_what_is_read_is_torchs_multi_head_attention(rng):
    torch = pytest.importorskip("torch")
    config = MergerConfig("attention", hidden=(8, 8), heads=4, grid=2)
    merger = KINDS["attention"](config, 5, 16, channels=(6,), dtype=jnp.float32, rngs=nnx.Rngs(0))
    maps, hidden = rng.standard_normal((3, 2, 2, 6)), rng.standard_normal((3, 2, 7, 16))
    sight = merger.look(Encoded(jnp.zeros((3, 5)), {32: jnp.asarray(maps, jnp.float32)}))
    ask = merger.rounds[0]
    read = ask(jnp.asarray(hidden, jnp.float32), sight.keys[0], sight.values[0], None)

    def tensor(x):
        return torch.tensor(np.asarray(x))

    theirs = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    layers = ask.query, ask.key, ask.value
    with torch.no_grad():
        theirs.in_proj_weight[:] = torch.cat([tensor(layer.kernel[...]).T for layer in layers])
        theirs.in_proj_bias[:] = torch.cat([tensor(layer.bias[...]) for layer in layers])
        theirs.out_proj.weight[:], theirs.out_proj.bias[:] = (
            tensor(ask.project.kernel[...]).T,
            tensor(ask.project.bias[...]),
        )
        projected = tensor(merger.places[0].project(jnp.asarray(maps, jnp.float32)))
        places = torch.nn.functional.layer_norm(projected, (16,)) + tensor(merger.places[0].positions[...])
        places = places.reshape(3, 4, 16)
        queries = torch.nn.functional.layer_norm(torch.tensor(hidden, dtype=torch.float32), (16,)).reshape(3, 14, 16)
        expected, weights = theirs(queries, places, places)
    np.testing.assert_allclose(read.reshape(3, 14, 16), expected, rtol=1e-4, atol=1e-5)
    found = merger.weights(sight, jnp.asarray(hidden, jnp.float32))
    np.testing.assert_allclose(found.reshape(3, 14, 4), weights, rtol=1e-4, atol=1e-5)


def test_captions_of_an_image_side_by_side_are_each_as_alone_and_step_by_step(network):
    batch = random_batch(batch=2, captions=3)
    batch["tokens"][:, :, 0] = 7  # as all captions begin
    image = network.encode(batch["image"])
    logits = network.logits(image, batch["tokens"], batch["mask"])
    alone = network.logits(image, batch["tokens"][:, 1:2], batch["mask"][:, 1:2])
    np.testing.assert_allclose(alone[:, 0], logits[:, 1], rtol=1e-4, atol=1e-5)

    cache = network.init_cache(2, 3, 9)
    for position in range(3):  # every caption has three tokens
        beams = slice(None, 3 if position else 1)
        tokens = jnp.asarray(batch["tokens"][:, beams, position])
        stepped, cache = network.next_logits(tokens, jnp.int32(position), cache, image)
        np.testing.assert_allclose(stepped, logits[:, beams, position], rtol=1e-4, atol=1e-5)
        cache = network.reorder_cache(cache, jnp.tile(jnp.arange(3) if position else jnp.zeros(3, int), (2, 1)))


def test_the_image_reaches_the_words_and_its_feature_maps_too(network):
    batch = random_batch(batch=2, captions=1)
    seen = {stride: maps for stride, maps in network.encoder.maps(batch["image"]).items() if stride in (16, 32)}
    vector = network.encoder.vector(batch["image"])

    def logits(maps):
        return network.logits(network.look(Encoded(vector, maps)), batch["tokens"], batch["mask"])

    for stride in seen:
        changed = seen | {stride: seen[stride][::-1]}
        assert not np.allclose(logits(seen), logits(changed), atol=1e-6), stride
    blind, alone = network.blind_logits(batch["tokens"], batch["mask"])
    assert not np.allclose(blind, logits(seen), atol=1e-6)
    assert not np.allclose(blind, alone, atol=1e-6)


def test_an_average_image_is_learnt_of_vector_and_maps():
    config, batch = tiny_model(**LOOKING), random_batch()
    network = bind(config, variables.init(config, 0))
    network.merged(batch["image"], batch["tokens"], batch["mask"], train=True, key=jax.random.key(0))
    maps = network.encoder.maps(batch["image"])
    for mean, stride in zip(network.map_means, (16, 32), strict=True):
        np.testing.assert_allclose(mean[...], 0.01 * maps[stride].mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_channels_are_standardised_as_the_training_images_have_them(rng):
    config = MergerConfig("attention", hidden=(8, 8), heads=4, grid=2, standardize=True)
    merger = KINDS["attention"](config, 5, 16, channels=(6,), dtype=jnp.float32, rngs=nnx.Rngs(0))
    seen = 3 + 2 * rng.standard_normal((4, 8, 5)).astype(np.float32)
    for vectors in seen:
        merger.look(Encoded(jnp.asarray(vectors), {32: jnp.zeros((8, 2, 2, 6))}), train=True)
    before = jax.tree.map(np.array, nnx.state(merger, nnx.BatchStat))
    vector = merger.look(Encoded(jnp.asarray(seen[0]), {32: jnp.zeros((8, 2, 2, 6))})).vector
    every = seen.reshape(-1, 5)
    np.testing.assert_allclose(vector, (seen[0] - every.mean(0)) / (every.std(0) + 0.02), rtol=1e-4, atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.array, nnx.state(merger, nnx.BatchStat)))
    with pytest.raises(ValueError, match="model.merger.standardize=True: skip_mlp can't"):
        MergerConfig(standardize=True)


def test_places_are_heeded_each_at_its_own_stride(network):
    batch = random_batch(batch=2, captions=1)
    maps = network.encoder.maps(batch["image"])
    images = Encoded(network.encoder.vector(batch["image"]), maps)
    heeded = network.attention(images, batch["tokens"], batch["mask"])
    assert {stride: each.shape[3:] for stride, each in heeded.items()} == {16: (2, 2), 32: (1, 1)}
    np.testing.assert_allclose(sum(each.sum((3, 4)) for each in heeded.values()), 1, rtol=1e-5)


def test_settings_that_fit_no_attention_are_refused():
    for settings, told in (
        ({"strides": ()}, "model.merger.strides"),
        ({"strides": (32, 32)}, "model.merger.strides"),
        ({"heads": 0}, "model.merger.heads"),
        ({"dropout": 1.0}, "model.merger.dropout"),
    ):
        with pytest.raises(ValueError, match=told):
            MergerConfig("attention", **settings)
    with pytest.raises(ValueError, match=r"model.merger.heads=3: must divide model.language.width=16"):
        tiny_model(kind="attention", heads=3)
