"""effdet's networks with random weights and statistics, and ours with the same, read by the names of its files."""

import jax
import numpy as np
from flax import nnx

from dualcap_jax.models.encoders.efficientdet import EfficientDet, EfficientDetConfig
from dualcap_jax.pretrained import efficientdet


def randomize(twin, gain: float) -> None:
    """Weights and statistics with which a network of any depth answers to its image and does not blow up rounding."""
    import torch

    with torch.no_grad():
        for name, value in twin.state_dict().items():
            if name.endswith("running_var") or (name.endswith("weight") and value.ndim == 1):
                value.copy_(0.5 + torch.rand_like(value))
            elif name.endswith(("running_mean", "bias")):
                value.copy_(0.1 * torch.randn_like(value))
            elif name.endswith("edge_weights"):
                value.copy_(torch.linspace(-0.2, 1.5, len(value))[torch.randperm(len(value))])
            elif value.ndim == 4 and ".se." not in name:
                value.normal_(0, (gain / value[0].numel()) ** 0.5)
                if name.endswith("conv_pwl.weight"):
                    value *= 0.3


def theirs(variant: str, image_size: int, **settings):
    """effdet's network in evaluation mode, drop rates 0."""
    import torch

    from ..timm_peers import effdet

    torch.manual_seed(0)
    twin = effdet.create_model(
        f"tf_efficientdet_{variant}",
        pretrained=False,
        pretrained_backbone=False,
        image_size=(image_size, image_size),
        **settings,
    ).eval()
    randomize(twin, gain=2.0 if "lite" in variant else 3.0)  # swish halves what ReLU6 lets pass
    return twin


def tree_of(config: EfficientDetConfig) -> dict:
    """Shapes of the variables of ours."""
    network = nnx.eval_shape(lambda: EfficientDet(config, rngs=nnx.Rngs(0)))
    kinds = {"params": nnx.Param, "batch_stats": nnx.BatchStat}
    return {name: nnx.to_pure_dict(nnx.state(network, kind)) for name, kind in kinds.items()}


def arrays_of(twin) -> dict[str, np.ndarray]:
    """The tensors of its file."""
    return {name: value.numpy() for name, value in twin.state_dict().items()}


def with_arrays(config: EfficientDetConfig, tree: dict) -> EfficientDet:
    """Ours with these variables."""
    graph, *states = nnx.split(nnx.eval_shape(lambda: EfficientDet(config, rngs=nnx.Rngs(0))), nnx.Param, nnx.BatchStat)
    for state, kind in zip(states, ("params", "batch_stats"), strict=True):
        nnx.replace_by_pure_dict(state, jax.tree.map(jax.numpy.asarray, tree[kind]))
    return nnx.merge(graph, *states)


def twins(variant: str, image_size: int, **settings):
    """effdet's network and ours with equal arrays, all accounted for."""
    twin = theirs(variant, image_size)
    config = EfficientDetConfig(variant, drop_connect=0.0, **settings)
    loaded, _ = efficientdet.load(config, tree_of(config), arrays_of(twin), "some")
    return twin, with_arrays(config, loaded)
