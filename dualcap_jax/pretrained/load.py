"""Both backbones from published weights, and what belongs to the weights: shapes and preprocessing."""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dualcap_jax.models.dual import ModelConfig
from dualcap_jax.models.efficientnet import NORMALIZATIONS, VARIANTS, EfficientNetConfig
from dualcap_jax.models.gpt2 import GPT2Config
from dualcap_jax.pretrained import efficientnet, gpt2
from dualcap_jax.pretrained.files import locate, read_config, read_tensors
from dualcap_jax.pretrained.tables import Entry, PretrainedError, Tensors, own_table, port

Tree = Mapping[str, Any]


class Preprocessing(NamedTuple):
    """How an encoder's weights saw pictures in their training and are to see them."""

    normalization: Literal["advprop", "imagenet", "lite"]
    interpolation: Literal["bilinear", "bicubic"]
    crop_fraction: float
    """Side of the centre crop over the resized picture's shorter side."""


def preprocessing(config: EfficientNetConfig) -> Preprocessing:
    """What belongs to the encoder's pretrained weights: as their config.json says, else as their authors did it.

    Raises:
        PretrainedError: when they cannot be had, or want colours scaled in a way not known here.
    """
    source = config.pretrained
    assert source is not None
    published = read_config(locate(source, config.revision))
    published = published.get("pretrained_cfg", published)
    nominal = VARIANTS[config.variant][2]
    crop_fraction = float(published.get("crop_pct") or nominal / (nominal + 32))
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if published.get("interpolation") == "bilinear" else "bicubic"
    )
    return Preprocessing(_normalization(config, source, published), interpolation, crop_fraction)


def _normalization(config: EfficientNetConfig, source: str, published: Mapping[str, Any]):
    if "mean" in published and "std" in published:
        theirs = [255 * value for name in ("mean", "std") for value in published[name]]
        for name, (mean, deviation) in NORMALIZATIONS.items():
            if np.allclose(theirs, [*mean, *deviation], atol=0.01):
                return name
        raise PretrainedError(
            f"{source}: config.json has mean {published['mean']} and std {published['std']}; set "
            f"model.encoder.normalization to one of {', '.join(NORMALIZATIONS)}"
        )
    if config.is_lite:
        return "lite"
    is_adversarial = re.search(r"advprop|(^|[^a-z])(ap|adv)([^a-z]|$)", source.lower())
    return "advprop" if is_adversarial else "imagenet"


def language_as_published(config: GPT2Config) -> GPT2Config:
    """The configuration with the shape of its pretrained weights.

    Raises:
        PretrainedError: when they cannot be had or are no GPT-2.
    """
    assert config.pretrained is not None
    published = read_config(locate(config.pretrained, config.revision))
    if not published:
        raise PretrainedError(f"{config.pretrained}: no config.json beside the weights")
    return gpt2.shaped(config, published, config.pretrained)


def load_encoder(config: EfficientNetConfig, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
    """An encoder's params and batch_stats with the tensors of a file in them, and one sentence on what was done.

    A classifier of another length, or one not wanted (`num_classes` 0), is left out, and said so.

    Args:
        config: the network's.
        tree: {"params": ..., "batch_stats": ...} of the encoder alone.
        tensors: of a file in the names of timm, efficientnet-pytorch or the authors.
        source: the file's name, for messages.

    Raises:
        PretrainedError: when the tensors do not fit.
    """
    naming, prefix = efficientnet.find_naming(tensors, source)
    if naming == "tensorflow":
        tensors = efficientnet.averaged(tensors)
    if (variant := efficientnet.find_variant(source) or config.variant) != config.variant:
        raise PretrainedError(f"{source}: weights of {variant}, but model.encoder.variant is {config.variant}")
    table = [entry._replace(name=prefix + entry.name) for entry in efficientnet.table(config, naming, classifier=True)]
    kernel, bias = table[-2:]
    has_one = kernel.name in tensors or bias.name in tensors
    classes = len(tensors.get(bias.name, ()))
    if has_one and config.num_classes and classes in (0, config.num_classes):
        told = f"encoder: {len(table)} tensors from {source}"
        return port(table, tensors, tree, source, extras=efficientnet.is_extra), told

    def is_extra(name: str) -> bool:
        return name in (kernel.name, bias.name) or efficientnet.is_extra(name)

    params = dict(tree["params"])
    classifier = {"classifier": params.pop("classifier")} if "classifier" in params else {}
    body = port(table[:-2], tensors, {**tree, "params": params}, source, extras=is_extra)
    body["params"] |= classifier
    which = f"the new one has {config.num_classes} classes" if config.num_classes else "num_classes is 0"
    return body, f"encoder: {len(table) - 2} tensors from {source}, without its classifier ({which})"


def load_language(config: GPT2Config, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
    """The language model's {"params": ...} with the tensors of a file in it, and one sentence on what was done.

    Raises:
        PretrainedError: when the tensors do not fit.
    """
    if "params.language.token_embedding" in tensors:  # what scripts/port_weights.py wrote
        table = own_table(tree, ("language",))
    else:
        table = list(gpt2.table(config, gpt2.find_prefix(tensors, source)))
    return port(table, tensors, tree, source, extras=gpt2.is_extra), f"language: {len(table)} tensors from {source}"


def load_pretrained(config: ModelConfig, model: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The network's params and batch_stats with the published weights that its config names, and what was done.

    Raises:
        PretrainedError: when weights cannot be had, read or fitted.
    """
    notes = []

    def replaced(part, settings, load):
        tree = {kind: model[kind][part] for kind in model if part in model[kind]}
        tensors = read_tensors(locate(settings.pretrained, settings.revision))
        loaded, told = load(settings, tree, tensors, settings.pretrained)
        notes.append(told)
        return {kind: model[kind] | {part: jax.tree.map(jnp.asarray, arrays)} for kind, arrays in loaded.items()}

    if config.encoder.pretrained is not None:
        model = model | replaced("encoder", config.encoder, load_encoder)
    if config.language.pretrained is not None:
        model = model | replaced("language", config.language, load_language)
    return model, notes


def original_table(config: ModelConfig) -> list[Entry]:
    """What each array is called in the original project's state dict.

    Raises:
        PretrainedError: when the merger is not the original's.
    """
    if config.merger.kind != "skip_mlp" or config.merger.norm != "none":
        raise PretrainedError(
            f"model.merger.kind={config.merger.kind}, model.merger.norm={config.merger.norm}: "
            "the original's merger is skip_mlp without a norm"
        )

    def under(part: str, entries):
        return [Entry(name, (path[0], part, *path[1:]), kind) for name, path, kind in entries]

    encoder = efficientnet.table(config.encoder, "efficientnet-pytorch", classifier=True)
    table = under("encoder", (entry._replace(name=f"efficient.{entry.name}") for entry in encoder))
    table += under("language", gpt2.table(config.language, "transformer."))
    for ours, theirs in {"first": "1", "second": "2"}.items():
        for layer in ("encoder", "decoder"):
            path = ("params", "merger", ours, layer)
            table.append(Entry(f"{layer}{theirs}.weight", (*path, "kernel"), "transposed"))
            table.append(Entry(f"{layer}{theirs}.bias", (*path, "bias"), "same"))
    return table


def load_original(config: ModelConfig, model: dict[str, Any], tensors: Tensors, source: str) -> dict[str, Any]:
    """The whole network from the original project's state dict (`transformer.*`, `efficient.*`, `encoder1` and so on).

    Raises:
        PretrainedError: when the tensors do not fit, or the merger is not the original's.
    """
    table = original_table(config)

    def is_extra(name: str) -> bool:
        return efficientnet.is_extra(name) or gpt2.is_extra(name)

    own = {"image_mean": jnp.zeros(model["batch_stats"]["image_mean"].shape)}  # which the original did not keep
    stats = {name: tree for name, tree in model["batch_stats"].items() if name not in own}
    loaded = port(table, tensors, model | {"batch_stats": stats}, source, extras=is_extra)
    return jax.tree.map(jnp.asarray, loaded | {"batch_stats": loaded["batch_stats"] | own})
