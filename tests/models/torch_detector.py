"""effdet's networks with random weights and statistics, and ours with the same, read by the names of its files."""

import jax
import numpy as np
import pytest
from flax import nnx

from dualcap_jax.models.encoders.efficientdet import EfficientDet, EfficientDetConfig


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


def effdets(variant: str, image_size: int, **settings):
    """effdet's network in evaluation mode, drop rates 0; `settings` are of its config."""
    torch = pytest.importorskip("torch")
    from ..timm_peers import effdet

    torch.manual_seed(0)
    config = effdet.get_efficientdet_config(f"tf_efficientdet_{variant}")
    backbone = {"drop_path_rate": 0.0, "bn_momentum": 0.01}  # the authors'; timm's own is torch's
    config.update({"image_size": (image_size, image_size), "backbone_args": backbone, **settings})
    config.num_levels = config.max_level - config.min_level + 1
    twin = effdet.EfficientDet(config, pretrained_backbone=False).eval()
    randomize(twin, gain=2.0 if "lite" in variant else 3.0)  # swish halves what ReLU6 lets pass
    return twin


def arrays_of(twin) -> dict[str, np.ndarray]:
    """The tensors of its file."""
    return {name: value.numpy() for name, value in twin.state_dict().items()}


_KINDS = {"params": nnx.Param, "batch_stats": nnx.BatchStat}


def _split(config: EfficientDetConfig):
    return nnx.split(nnx.eval_shape(lambda: EfficientDet(config, rngs=nnx.Rngs(0))), *_KINDS.values())


def tree_of(config: EfficientDetConfig) -> dict:
    """Shapes of the variables of ours."""
    _, *states = _split(config)
    return dict(zip(_KINDS, map(nnx.to_pure_dict, states), strict=True))


def with_arrays(config: EfficientDetConfig, tree: dict) -> EfficientDet:
    """Ours with these variables."""
    graph, *_ = _split(config)
    return nnx.merge(graph, *(jax.tree.map(jax.numpy.asarray, tree[kind]) for kind in _KINDS), copy=True)


def outputs_of(twin, images: np.ndarray) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Its levels [batch, height, width, channels], class logits and box outputs [batch, anchors, outputs]."""
    import torch

    def places(x):
        return x.permute(0, 2, 3, 1)

    def together(each, outputs):
        return torch.cat([places(x).reshape(len(x), -1, outputs) for x in each], 1)

    levels = twin.fpn(twin.backbone(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())))
    classes, boxes = twin.class_net(levels), twin.box_net(levels)
    return [places(x) for x in levels], together(classes, twin.config.num_classes), together(boxes, 4)
