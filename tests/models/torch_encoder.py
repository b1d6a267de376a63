"""efficientnet-pytorch's networks with random weights and statistics, and ours with the same."""

import re

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models.encoders.efficientnet import EfficientNet, EfficientNetConfig


def published_name(path: tuple) -> str:
    """Our path of an array -> efficientnet-pytorch's name."""
    modules = {
        "stem": "_conv_stem.weight",
        "stem_norm": "_bn0",
        "head": "_conv_head",
        "head_norm": "_bn1",
        "classifier": "_fc",
        "expand": "_expand_conv",
        "expand_norm": "_bn0",
        "depthwise": "_depthwise_conv.weight",
        "depthwise_norm": "_bn1",
        "project": "_project_conv",
        "project_norm": "_bn2",
        "blocks": "_blocks",
        "kernel": "weight",
        "scale": "weight",
        "mean": "running_mean",
        "var": "running_var",
    }
    name = ".".join(modules.get(str(part), str(part)) for part in path)
    return re.sub(
        r"squeeze_excite\.(reduce|_expand_conv)", lambda m: "_se_" + m[1].replace("_expand_conv", "expand"), name
    )


def to_ours(name: str, value: np.ndarray, shape: tuple) -> np.ndarray:
    """Convolutions OIHW -> HWIO (squeeze-excite's as dense ones), dense layers transposed."""
    if value.ndim == 4:
        value = value.transpose(2, 3, 1, 0)
    elif value.ndim == 2:
        value = value.T
    return value.reshape(shape) if "_se_" in name else value


def randomize(twin) -> None:
    """Weights and statistics with which a network of any depth answers to its picture and does not blow up rounding."""
    import torch

    with torch.no_grad():
        for name, value in twin.state_dict().items():
            if name.endswith("running_var") or re.search(r"_bn\d\.weight", name):
                value.copy_(0.5 + torch.rand_like(value))
            elif name.endswith(("running_mean", "bias")):
                value.copy_(0.1 * torch.randn_like(value))
            elif value.ndim == 4 and "_se_" not in name:
                value.normal_(0, (3 / value[0].numel()) ** 0.5)
        for block in twin._blocks:
            arguments = block._block_args
            if arguments.input_filters == arguments.output_filters:
                block._project_conv.weight *= 0.1


def pictures(batch: int, size: int, rng) -> np.ndarray:
    """Float pictures in [-1, 1] of coarse squares: those of noise look alike to a network."""
    coarse = rng.uniform(-1, 1, (batch, 8, 8, 3)).repeat(size // 8 + 1, 1).repeat(size // 8 + 1, 2)
    return (0.9 * coarse[:, :size, :size] + rng.uniform(-0.1, 0.1, (batch, size, size, 3))).astype(np.float32)


def twins(variant: str, image_size: int, **config):
    """The torch network (in evaluation mode, drop rates 0) and ours, with equal arrays, all accounted for."""
    torch = pytest.importorskip("torch")
    published = pytest.importorskip("efficientnet_pytorch")
    torch.manual_seed(0)
    twin = published.EfficientNet.from_name(
        f"efficientnet-{variant}", image_size=image_size, dropout_rate=0.0, drop_connect_rate=0.0
    ).eval()
    randomize(twin)
    settings = {"dropout": 0.0, "drop_connect": 0.0, **config}
    ours = nnx.eval_shape(lambda: EfficientNet(EfficientNetConfig(variant, **settings), rngs=nnx.Rngs(0)))
    graph, state = nnx.split(ours)
    weights = {k: v.numpy() for k, v in twin.state_dict().items() if not k.endswith("num_batches_tracked")}
    shapes = {path: variable.get_value().shape for path, variable in nnx.to_flat_state(state)}
    names = {path: published_name(path) for path in shapes}
    assert sorted(names.values()) == sorted(weights)
    arrays = {path: jnp.asarray(to_ours(name, weights[name], shapes[path])) for path, name in names.items()}
    assert {path: array.shape for path, array in arrays.items()} == shapes
    nnx.replace_by_pure_dict(state, nnx.traversals.unflatten_mapping(arrays))
    return twin, nnx.merge(graph, state)
