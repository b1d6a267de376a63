"""The detector against effdet, and against its own promises."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models.encoders.anchors import decode_boxes
from dualcap_jax.models.encoders.efficientdet import EfficientDet, EfficientDetConfig
from dualcap_jax.pretrained import efficientdet

from .torch_detector import arrays_of, effdets, outputs_of, tree_of, with_arrays
from .torch_encoder import pictures

TINY = {"channels": 16, "cells": 2, "repeats": 2, "num_classes": 5, "drop_connect": 0.0}
THEIRS = {"fpn_channels": 16, "fpn_cell_repeats": 2, "box_class_repeats": 2, "num_classes": 5}
TINIEST = {**TINY, "width": 0.25, "depth": 0.2, "cells": 1, "repeats": 1, "coarsest": 5}


def close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize(
    ("variant", "ours", "theirs"),
    [
        ("d0", TINY, THEIRS),
        ("lite0", {**TINY, "coarsest": 8}, {**THEIRS, "max_level": 8}),
        pytest.param("lite0", {"drop_connect": 0.0}, {}, marks=pytest.mark.slow),
        pytest.param("d1", {"drop_connect": 0.0}, {}, marks=pytest.mark.slow),
    ],
)
def test_levels_classes_and_boxes_are_those_of_effdet(variant, ours, theirs, rng):
    twin, config = effdets(variant, 128, **theirs), EfficientDetConfig(variant, **ours)
    loaded, _ = efficientdet.load(config, tree_of(config), arrays_of(twin), "some")
    network, x = with_arrays(config, loaded), pictures(2, 128, rng)
    levels, *outputs = outputs_of(twin.requires_grad_(False), x)

    @jax.jit
    def run(x):
        maps = network.maps(x)
        return maps, network.detect_of(maps), network.vector(x)

    maps, found, vector = run(x)
    assert list(maps) == [8, 16, 32, 64, 128, 256][: len(levels)]
    for mine, other in zip((*maps.values(), *found), (*levels, *outputs), strict=True):
        assert np.abs(other[0] - other[1]).max() > 0.005 * np.abs(other).max()  # the images matter
        close(mine, other.numpy())
    np.testing.assert_allclose(vector, np.concatenate([each.mean((1, 2)) for each in levels], 1), rtol=1e-3, atol=1e-3)


def test_a_training_pass_has_the_gradients_and_statistics_of_effdet(rng):
    """The peer's in float64: gradients through batch norm of random networks lose much in rounding."""
    torch = pytest.importorskip("torch")
    twin = effdets("d0", 96, **THEIRS, max_level=6)  # sides of 12, 6, 3 and 2: an odd one too
    config = EfficientDetConfig("d0", **TINY, coarsest=6)
    tree = tree_of(config)
    network = with_arrays(config, efficientdet.load(config, tree, arrays_of(twin), "some")[0])
    twin, x = twin.double().train(), pictures(4, 96, rng)
    _, classes, boxes = outputs_of(twin, x.astype(np.float64))
    targets = [rng.standard_normal(each.shape) for each in (classes, boxes)]
    sum(
        (each * torch.from_numpy(target)).mean() for each, target in zip((classes, boxes), targets, strict=True)
    ).backward()
    graph, params, stats = nnx.split(network, nnx.Param, nnx.BatchStat)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradients(params):
        network = nnx.merge(graph, params, stats, copy=True)
        found = network.detect(x, train=True)
        loss = sum((each * target).mean() for each, target in zip(found, targets, strict=True))
        return loss, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    mine, learnt = gradients(params)
    arrays = arrays_of(twin)
    slopes = {name: value.grad.numpy() for name, value in twin.named_parameters()}
    theirs, _ = efficientdet.load(config, tree, arrays | slopes, "some")
    for kind, ours, least in (("params", nnx.to_pure_dict(mine), 1e-3), ("batch_stats", learnt, 1e-4)):
        squares = total = 0.0
        for leaf, reference in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs[kind]), strict=True):
            squares += np.square(np.asarray(leaf, np.float64) - reference).sum()
            total += np.square(reference).sum()
        assert (squares / total) ** 0.5 < least, kind


@pytest.mark.parametrize(("variant", "image_size"), [("d0", 512), ("d7x", 512), ("lite0", 128)])
def test_anchors_are_those_of_effdet(variant, image_size, rng):
    torch = pytest.importorskip("torch")
    from ..timm_peers import effdet

    theirs = effdet.get_efficientdet_config(f"tf_efficientdet_{variant}")
    theirs.image_size = (image_size, image_size)
    expected = effdet.anchors.Anchors.from_config(theirs).boxes
    found = EfficientDetConfig(variant).anchors(image_size)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-4)
    outputs = rng.standard_normal(found.shape).astype(np.float32)
    boxes = effdet.anchors.decode_box_outputs(torch.from_numpy(outputs), expected)
    np.testing.assert_allclose(decode_boxes(jnp.asarray(outputs), jnp.asarray(found)), boxes, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(("variant", "parameters"), [("d0", 3_880_067), ("d1", 6_625_898), ("lite0", 3_243_470)])
def test_published_sizes(variant, parameters):
    tree = tree_of(EfficientDetConfig(variant))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree)) == parameters


def build(**settings):
    config = EfficientDetConfig("lite0", **{**TINIEST, **settings})
    return nnx.jit(lambda: EfficientDet(config, rngs=nnx.Rngs(0)))()


def test_detections_are_the_likeliest_that_do_not_overlap_a_better_one_of_their_class(rng):
    network, images = build(detections=9), pictures(2, 64, rng)
    network.class_head.predict.pointwise[...] *= 4  # so that scores differ
    maps = jax.jit(network.maps)(images)
    assert (
        network.channels == {0: 10, 8: 16, 16: 16, 32: 16} == {stride: each.shape[-1] for stride, each in maps.items()}
    )
    logits, outputs = jax.jit(network.detect_of)(maps)
    probabilities = jax.nn.sigmoid(logits)
    boxes = np.clip(decode_boxes(outputs, network.config.anchors(64)) / 64, 0, 1)
    for found, probability, box in zip(maps[0][:, :, 0], probabilities, boxes, strict=True):
        left, kind = list(np.argsort(-probability.max(1))), probability.argmax(1)
        for token in found:
            best = left[0]
            np.testing.assert_allclose(token, [*probability[best], *box[best], probability[best].max()], atol=1e-5)
            left = [i for i in left if kind[i] != kind[best] or overlap(box[i], box[best]) <= 0.5]
            left = [i for i in left if i != best]
    changed = jax.jit(network.deeper_maps, static_argnums=1)(maps | {8: -maps[8]}, 8)
    assert not np.allclose(changed[0], maps[0])
    assert jax.eval_shape(lambda maps: network.deeper_maps(maps, 0), maps).keys() == maps.keys()


def overlap(first, second):
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    common = np.prod(np.maximum(sides, 0))
    return common / max(np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - common, 1e-12)


def test_without_heads_there_are_levels_alone():
    network = build(num_classes=0)
    images = jnp.zeros((1, 32, 32, 3), jnp.uint8)
    assert [*jax.eval_shape(network.maps, images)] == [8, 16, 32]
    with pytest.raises(ValueError, match="num_classes=0: without heads nothing is detected"):
        jax.eval_shape(network.detect, images)


def trained(rng, **settings):
    """A sum of outputs in training, its gradients, and the statistics before and after."""
    graph, params, stats = nnx.split(build(**settings), nnx.Param, nnx.BatchStat)
    images = pictures(3, 32, rng)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def run(params):
        network = nnx.merge(graph, params, stats, copy=True)
        found = network.detect(images, train=True)
        return sum(jnp.mean(each**2) for each in found), nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

    (loss, after), slopes = run(params)
    return [loss], jax.tree.leaves(slopes), jax.tree.leaves(stats), jax.tree.leaves(after)


def test_what_is_recomputed_changes_nothing_and_frozen_statistics_stay():
    plain = trained(np.random.default_rng(0))
    assert not any(map(np.array_equal, *plain[2:]))
    for remat in ("blocks", "convolutions"):
        for one, other in zip(plain, trained(np.random.default_rng(0), remat=remat), strict=True):
            squares = sum(float(jnp.sum((a - b) ** 2)) for a, b in zip(one, other, strict=True))
            assert squares <= 1e-6 * sum(float(jnp.sum(a**2)) for a in one), remat
    assert all(map(np.array_equal, *trained(np.random.default_rng(0), batch_norm="frozen")[2:]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"variant": "d8"}, "model.encoder.variant='d8': must be 'd0'"),
        ({"channels": 0}, "model.encoder.channels=0: must be at least 1"),
        ({"finest": 6}, "model.encoder.finest=6: must be 1 to 5"),
        ({"coarsest": 4}, "model.encoder.coarsest=4: must be at least 5"),
        ({"anchor_scale": 0.0}, "model.encoder.anchor_scale=0.0: must be more than 0"),
        (
            {"num_classes": 0, "detections": 3},
            "model.encoder.detections=3: must be 0 where model.encoder.num_classes is 0",
        ),
    ],
)
def test_impossible_settings_name_the_field(settings, message):
    with pytest.raises(ValueError, match=message):
        EfficientDetConfig(**settings)
