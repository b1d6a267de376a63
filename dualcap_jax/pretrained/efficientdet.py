"""EfficientDet's names in `effdet`, in the authors' TensorFlow checkpoints and in ported files.

`effdet`: rwightman/efficientdet-pytorch, its `tf_efficientdet_*`. The authors': the variables of google/automl's
efficientdet/efficientdet_arch.py.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np

from dualcap_jax.models.encoders.anchors import PER_PLACE
from dualcap_jax.models.encoders.bifpn import nodes
from dualcap_jax.models.encoders.efficientdet import VARIANTS, EfficientDetConfig
from dualcap_jax.pretrained import efficientnet
from dualcap_jax.pretrained.efficientnet import averaged, is_extra, norm_table, trunk_table
from dualcap_jax.pretrained.files import locate, read_config
from dualcap_jax.pretrained.preprocessing import Preprocessing
from dualcap_jax.pretrained.tables import (
    PretrainedError,
    TensorName,
    Tensors,
    Tree,
    TreePath,
    flatten,
    own_table,
    port,
    unflatten,
)

Naming = Literal["effdet", "tensorflow"]

_PLACES = {
    "effdet": {
        "coarser": "fpn.resample.{inputs}.conv",
        "fused": "fpn.cell.{cell}.fnode.{node}.combine.resample.{number}.conv",
        "weights": "fpn.cell.{cell}.fnode.{node}.combine.edge_weights",
        "node": "fpn.cell.{cell}.fnode.{node}.after_combine.conv",
        "node_norm": "fpn.cell.{cell}.fnode.{node}.after_combine.conv.bn",
        "head": "{head}_net.conv_rep.{repeat}",
        "head_norm": "{head}_net.bn_rep.{repeat}.{index}.bn",
        "predict": "{head}_net.predict",
    },
    "tensorflow": {
        "coarser": "resample_p6",
        "fused": "fpn_cells/cell_{cell}/fnode{node}/resample_{index}_{number}_{made}",
        "weights": "fpn_cells/cell_{cell}/fnode{node}/WSM",
        "node": "fpn_cells/cell_{cell}/fnode{node}/op_after_combine{made}/conv",
        "node_norm": "fpn_cells/cell_{cell}/fnode{node}/op_after_combine{made}/bn",
        "head": "{head}_net/{head}-{repeat}",
        "head_norm": "{head}_net/{head}-{repeat}-bn-{level}",
        "predict": "{head}_net/{head}-predict",
    },
}
_SEPARABLE = {  # name and layout of the arrays of `SeparableConv`, and of `Channels`
    "effdet": {
        "depthwise": ("conv_dw.weight", "torch_conv"),
        "pointwise": ("conv_pw.weight", "torch_conv"),
        "bias": ("conv_pw.bias", "same"),
    },
    "tensorflow": {
        "depthwise": ("depthwise_kernel", "tf_depthwise"),
        "pointwise": ("pointwise_kernel", "same"),
        "bias": ("bias", "same"),
    },
}
_CHANNELS = {
    "effdet": {"kernel": ("conv.weight", "torch_conv"), "bias": ("conv.bias", "same")},
    "tensorflow": {"kernel": ("conv2d/kernel", "same"), "bias": ("conv2d/bias", "same")},
}
_FIRST_NODES = {  # a batch norm of each cell
    "effdet": r"((?:.*\.)?)fpn\.cell\.(\d+)\.fnode\.0\.after_combine\.conv\.bn\.weight",
    "tensorflow": r"()fpn_cells/cell_(\d+)/fnode0/op_after_combine\d+/bn/gamma",
}
_HEADS = r"(class|box)_(net|head)[./]"
_CLASSES = r"class_(net|head)[./](class-)?predict[./]"
_CLASS_BIAS = _CLASSES + r"(conv_pw\.)?bias$"


def find_variant(source: str) -> str | None:
    """The variant that the name of a file, a directory or a model tells."""
    named = re.search(r"efficientdet[-_]?(d\dx?|lite\dx?)", source.lower())
    return named[1] if named else None


def find_naming(tensors: Tensors) -> tuple[Naming, str] | None:
    """Whose names a file's tensors have, and what stands before those outside the backbone; None: no detector's."""
    namings: tuple[Naming, ...] = ("effdet", "tensorflow")
    for naming in namings:
        for name in tensors:
            if (found := re.fullmatch(_FIRST_NODES[naming], name)) is not None:
                return naming, found[1]
    return None


def table(config: EfficientDetConfig, naming: Naming, tree: Tree) -> Iterator[TensorName]:
    """Line by line, what each array of a detector is called, without what stands before the backbone's.

    Args:
        config: the network's.
        naming: whose names.
        tree: {"params": ..., "batch_stats": ...} of it.
    """
    ours, places = {path for path, _ in flatten(tree)}, _PLACES[naming]
    library: Literal["torch", "tensorflow"] = "torch" if naming == "effdet" else "tensorflow"
    separator = "." if naming == "effdet" else "/"

    def arrays(names: dict[str, tuple[str, str]], place: str, path: TreePath) -> Iterator[TensorName]:
        for name, (theirs, layout) in names.items():
            yield TensorName(f"{place}{separator}{theirs}", ("params", *path, name), layout)

    def channels(place: str, path: TreePath) -> Iterator[TensorName]:
        if ("params", *path, "kernel") in ours:
            yield from arrays(_CHANNELS[naming], place, path)
            yield from norm_table(f"{place}{separator}bn", (*path, "norm"), library)

    def separable(place: str, path: TreePath) -> Iterator[TensorName]:
        return arrays(_SEPARABLE[naming], place, path)

    for name, (kind, *rest), layout in trunk_table(config.backbone, "timm" if naming == "effdet" else "tensorflow"):
        yield TensorName(name, (kind, "backbone", *rest), layout)
    inputs = sum(level <= 5 for level in config.levels)
    yield from channels(places["coarser"].format(inputs=inputs), ("fpn", "channels"))
    for cell in range(config.shape.cells):
        for node, (_, fused) in enumerate(nodes(len(config.levels))):
            path: TreePath = ("fpn", "cells", str(cell), str(node))
            where = {"cell": cell, "node": node, "made": len(config.levels) + node}
            for index, (_, number) in enumerate(fused):
                place = places["fused"].format(index=index, number=number, **where)
                yield from channels(place, (*path, "channels", str(index)))
            if config.shape.is_weighted:
                yield TensorName(places["weights"].format(**where), ("params", *path, "weights"), "same")
            yield from separable(places["node"].format(**where), (*path, "convolution"))
            yield from norm_table(places["node_norm"].format(**where), (*path, "norm"), library)
    for head in ("class", "box"):
        path = (f"{head}_head",)
        for repeat in range(config.shape.repeats):
            place = places["head"].format(head=head, repeat=repeat)
            yield from separable(place, (*path, "convolutions", str(repeat)))
            for index, level in enumerate(config.levels):
                place = places["head_norm"].format(head=head, repeat=repeat, index=index, level=level)
                yield from norm_table(place, (*path, "norms", str(repeat), str(index)), library)
        yield from separable(places["predict"].format(head=head), (*path, "predict"))


def _with_vectors(tensors: Tensors) -> Tensors:
    """A TensorFlow checkpoint's variables with the weights of each node, a number each there, as one array."""
    found = dict(tensors)
    for name in tensors:
        if name.endswith("/WSM"):
            every = [found.pop(each) for each in (name, f"{name}_1", f"{name}_2") if each in found]
            found[name] = np.stack(every)
    return found


def preprocessing(config: EfficientDetConfig) -> Preprocessing:
    """What belongs to the encoder's pretrained weights: as their config.json says, else as their authors did it.

    Raises:
        PretrainedError: when they cannot be had, or want colours scaled in a way not known here.
    """
    source = config.pretrained
    assert source is not None
    published = read_config(locate(source, config.revision))
    return Preprocessing(efficientnet.normalization_of(config.backbone, source, published), "bilinear", 1.0)


def load(config: EfficientDetConfig, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
    """A detector's params and batch_stats with the tensors of a file in them, and one sentence on what was done.

    Heads that are not wanted (`num_classes` 0), or the last layer of one for other classes, are left out, and said so.
    Weights of an EfficientNet go into the backbone alone.

    Args:
        config: the network's.
        tree: {"params": ..., "batch_stats": ...} of the encoder alone.
        tensors: of a file in the names of effdet or the authors, or of an EfficientNet.
        source: the file's name, for messages.

    Raises:
        PretrainedError: when the tensors do not fit.
    """
    if (variant := find_variant(source) or config.variant) != config.variant:
        raise PretrainedError(f"{source}: weights of {variant}, but model.encoder.variant is {config.variant}")
    tensors = _with_vectors(averaged(tensors))
    if "params.encoder.backbone.stem" in tensors:
        names = own_table(tree, ("encoder",))
    elif (found := find_naming(tensors)) is None:
        return _load_backbone(config, tree, tensors, source)
    else:
        naming, prefix = found
        _refuse_another(config, tensors, naming, source)
        before = efficientnet.find_naming(tensors, source)[1]
        names = [
            entry._replace(name=(before if entry.path[1] == "backbone" else prefix) + entry.name)
            for entry in table(config, naming, tree)
        ]
    classes = sum(len(tensor) // PER_PLACE for name, tensor in tensors.items() if re.search(_CLASS_BIAS, name))
    left_out, told = None, ""
    if not config.num_classes:
        left_out, told = re.compile(_HEADS), ", without its heads (num_classes is 0)"
    elif classes not in (0, config.num_classes):
        left_out = re.compile(_CLASSES)
        told = f", without its {classes} classes (the new one has {config.num_classes})"

    def is_left_out(name: str) -> bool:
        return left_out is not None and left_out.search(name) is not None

    names = [entry for entry in names if not is_left_out(entry.name)]
    some = _without(tree, is_left_out)
    loaded = port(names, tensors, some, source, extras=lambda name: is_extra(name) or is_left_out(name))
    return unflatten(tree, dict(flatten(loaded))), f"encoder: {len(names)} tensors from {source}{told}"


def _without(tree: Mapping[Any, Any], is_left_out: Callable[[str], bool], prefix: TreePath = ()) -> dict[Any, Any]:
    """Nested dicts without some leaves, which their paths with dots tell."""
    kept = {}
    for key, value in tree.items():
        path = (*prefix, str(key))
        if isinstance(value, Mapping):
            kept[key] = _without(value, is_left_out, path)
        elif not is_left_out(".".join(path)):
            kept[key] = value
    return kept


def _refuse_another(config: EfficientDetConfig, tensors: Tensors, naming: Naming, source: str) -> None:
    """Refuse weights of another variant by the shape of their BiFPN.

    Raises:
        PretrainedError: they are; names both.
    """
    found = [re.fullmatch(_FIRST_NODES[naming], name) for name in tensors]
    cells = [each for each in found if each is not None]
    theirs, ours = (len(cells), len(tensors[cells[0][0]])), (config.shape.cells, config.shape.channels)
    if theirs != ours:
        alike = [name for name, shape in VARIANTS.items() if (shape.cells, shape.channels) == theirs]
        named = f" (variant {' or '.join(alike)})" if alike else ""
        raise PretrainedError(
            f"{source}: {theirs[0]} cells of {theirs[1]} channels{named}, but model.encoder has {ours[0]} of {ours[1]}"
        )


def _load_backbone(config: EfficientDetConfig, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
    """The same of an EfficientNet's weights: all but the backbone stays, and the file's head is left out."""
    naming, prefix = efficientnet.find_naming(tensors, source)
    backbone = config.backbone
    if (variant := efficientnet.find_variant(source) or backbone.variant) != backbone.variant:
        raise PretrainedError(
            f"{source}: weights of {variant}, but the backbone of model.encoder.variant={config.variant} is "
            f"{backbone.variant}"
        )
    names = [entry._replace(name=prefix + entry.name) for entry in trunk_table(backbone, naming)]
    head = {prefix + entry.name for entry in efficientnet.table(backbone, naming, classifier=True)}
    inner = {kind: tree[kind]["backbone"] for kind in tree}
    loaded = port(names, tensors, inner, source, extras=lambda name: is_extra(name) or name in head)
    told = f"encoder: {len(names)} tensors from {source}, for its backbone alone"
    return {kind: {**tree[kind], "backbone": loaded[kind]} for kind in tree}, told
