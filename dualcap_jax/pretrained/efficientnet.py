"""EfficientNet's names in timm, in efficientnet-pytorch, in the authors' TensorFlow checkpoints and in ported files.

FixEfficientNet (Touvron et al. 2020) is EfficientNet fine-tuned for larger images; its files have timm's names.
"""

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np

from dualcap_jax.models.encoders.efficientnet import VARIANTS, EfficientNetConfig
from dualcap_jax.models.encoders.encoder import NORMALIZATIONS, Normalization
from dualcap_jax.pretrained.files import locate, read_config
from dualcap_jax.pretrained.preprocessing import Preprocessing
from dualcap_jax.pretrained.tables import PretrainedError, TensorName, Tensors, Tree, TreePath, port

Naming = Literal["timm", "efficientnet-pytorch", "tensorflow", "ours"]

FIXED_SIZES: dict[str, tuple[int | None, int | None]] = {
    "b0": (320, 320),
    "b1": (384, 384),
    "b2": (420, 420),
    "b3": (472, 472),
    "b4": (512, 472),
    "b5": (576, 576),
    "b6": (576, 680),
    "b7": (632, 632),
    "b8": (800, None),
    "l2": (None, 600),
}
"""Sides in pixels of the images that FixEfficientNet was fine-tuned for, without and with extra training data: from
AdvProp's weights and from Noisy Student's. None: not made."""

_AVERAGE = "/ExponentialMovingAverage"
_NORM_SUFFIXES = {
    "torch": {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"},
    "tensorflow": {"scale": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"},
}
_LAYOUTS = {  # of convolutions, depthwise ones, squeeze-excite's and the classifier's kernel
    "torch": ("torch_conv", "torch_conv", "torch_squeezed", "transposed"),
    "tensorflow": ("same", "tf_depthwise", "tf_squeezed", "same"),
}


def _timm_names(config: EfficientNetConfig) -> Iterator[dict[str, str]]:
    yield {"stem": "conv_stem.weight", "stem_norm": "bn1", "head": "conv_head.weight", "head_norm": "bn2"}
    for stage, repeats in enumerate(config.repeats):
        for index in range(repeats):
            convolutions = ["conv_pw", "conv_dw", "conv_pwl"] if stage else ["", "conv_dw", "conv_pw"]
            norms = ["bn1", "bn2", "bn3"] if stage else ["", "bn1", "bn2"]
            yield {
                **{f"conv{n}": f"blocks.{stage}.{index}.{name}.weight" for n, name in enumerate(convolutions)},
                **{f"norm{n}": f"blocks.{stage}.{index}.{name}" for n, name in enumerate(norms)},
                "reduce": f"blocks.{stage}.{index}.se.conv_reduce",
                "expand": f"blocks.{stage}.{index}.se.conv_expand",
            }


def _efficientnet_pytorch_names(config: EfficientNetConfig) -> Iterator[dict[str, str]]:
    yield {"stem": "_conv_stem.weight", "stem_norm": "_bn0", "head": "_conv_head.weight", "head_norm": "_bn1"}
    for index in range(sum(config.repeats)):
        block = f"_blocks.{index}"
        convolutions = ("_expand_conv", "_depthwise_conv", "_project_conv")
        yield {
            **{f"conv{n}": f"{block}.{name}.weight" for n, name in enumerate(convolutions)},
            **{f"norm{n}": f"{block}._bn{n}" for n in range(3)},
            "reduce": f"{block}._se_reduce",
            "expand": f"{block}._se_expand",
        }


def _tensorflow_names(config: EfficientNetConfig) -> Iterator[dict[str, str]]:
    norm = "tpu_batch_normalization"
    yield {
        "stem": "stem/conv2d/kernel",
        "stem_norm": f"stem/{norm}",
        "head": "head/conv2d/kernel",
        "head_norm": f"head/{norm}",
    }
    for index in range(sum(config.repeats)):
        block, expands = f"blocks_{index}", index >= config.repeats[0]
        yield {
            "conv0": f"{block}/conv2d/kernel",
            "conv1": f"{block}/depthwise_conv2d/depthwise_kernel",
            "conv2": f"{block}/conv2d{'_1' * expands}/kernel",
            **{f"norm{n}": f"{block}/{norm}{['', '', '_1', '_2'][n + expands]}" for n in range(3)},
            "reduce": f"{block}/se/conv2d",
            "expand": f"{block}/se/conv2d_1",
        }


_NAMES = {
    "timm": (_timm_names, "classifier.{}"),
    "efficientnet-pytorch": (_efficientnet_pytorch_names, "_fc.{}"),
    "tensorflow": (_tensorflow_names, "head/dense/{}"),
}


def find_variant(source: str) -> str | None:
    """The variant that the name of a file, a directory or a model tells."""
    named = re.search(r"efficientnet[-_]?(b\d|l2|lite\d)", source.lower())
    return named[1] if named else None


class Fixed(NamedTuple):
    """What the name of a file of FixEfficientNet tells."""

    image_size: int | None
    """Side in pixels of the images that it is for."""
    has_extra_data: bool
    """Whether it comes from Noisy Student, not from AdvProp."""


def find_fixed(source: str) -> Fixed | None:
    """What a name such as fixEfficientNet_b4_ns tells, as its authors gave them; None of other weights."""
    name = source.lower()
    if not re.search(r"fix[-_]?efficientnet", name):
        return None
    variant = find_variant(name)
    has_extra_data = variant == "l2" or re.search(r"[-_]ns([^a-z]|$)", name) is not None
    return Fixed(FIXED_SIZES.get(variant or "", (None, None))[has_extra_data], has_extra_data)


def find_naming(tensors: Tensors, source: str) -> tuple[Naming, str]:
    """Whose names a file's tensors have, and what stands before each of them.

    Raises:
        PretrainedError: when they are nobody's.
    """
    firsts: dict[Naming, str] = {
        "ours": "params.encoder.stem",
        "timm": "conv_stem.weight",
        "efficientnet-pytorch": "_conv_stem.weight",
        "tensorflow": "stem/conv2d/kernel",
    }
    for naming, first in firsts.items():
        for name in tensors:
            # "_conv_stem.weight" ends as timm's does: what stands before must be a whole word.
            if (found := re.fullmatch(rf"((?:.*[./])?){re.escape(first)}({_AVERAGE})?", name)) is not None:
                return naming, found[1]
    raise PretrainedError(
        f"{source}: no EfficientNet in the names of timm, efficientnet-pytorch or the authors' checkpoints"
    )


def table(config: EfficientNetConfig, naming: Naming, *, classifier: bool) -> Iterator[TensorName]:
    """Line by line, what each array of the encoder is called; paths begin with "params" or "batch_stats".

    Args:
        config: the network's.
        naming: whose names.
        classifier: whether the classifier's kernel and bias are among them, as the last two.
    """
    if naming == "ours":
        for _, (kind, *rest), _ in table(config, "timm", classifier=classifier):
            yield TensorName(".".join((kind, "encoder", *rest)), (kind, *rest), "same")
        return
    names, classifier_name = _NAMES[naming]
    library: Literal["torch", "tensorflow"] = "tensorflow" if naming == "tensorflow" else "torch"
    conv, _, _, dense = _LAYOUTS[library]
    kernel = "kernel" if library == "tensorflow" else "weight"
    whole = next(names(config))
    yield from trunk_table(config, naming)
    yield TensorName(whole["head"], ("params", "head", "kernel"), conv)
    yield from norm_table(whole["head_norm"], ("head_norm",), library)
    if classifier:
        yield TensorName(classifier_name.format(kernel), ("params", "classifier", "kernel"), dense)
        yield TensorName(classifier_name.format("bias"), ("params", "classifier", "bias"), "same")


def norm_table(name: str, path: TreePath, library: Literal["torch", "tensorflow"]) -> Iterator[TensorName]:
    """What the arrays of a batch norm are called; `path` is without its kind of variable."""
    separator = "/" if library == "tensorflow" else "."
    for ours, theirs in _NORM_SUFFIXES[library].items():
        kind = "batch_stats" if ours in ("mean", "var") else "params"
        yield TensorName(f"{name}{separator}{theirs}", (kind, *path, ours), "same")


def trunk_table(config: EfficientNetConfig, naming: Naming) -> Iterator[TensorName]:
    """The same of stem and blocks alone; `naming` is one of others."""
    library: Literal["torch", "tensorflow"] = "tensorflow" if naming == "tensorflow" else "torch"
    conv, depthwise, squeezed, _ = _LAYOUTS[library]
    separator, kernel = ("/", "kernel") if library == "tensorflow" else (".", "weight")
    norm = partial(norm_table, library=library)
    whole, *blocks = _NAMES[naming][0](config)
    yield TensorName(whole["stem"], ("params", "stem"), conv)
    yield from norm(whole["stem_norm"], ("stem_norm",))
    for index, block in enumerate(blocks):
        path = ("blocks", str(index))
        if index >= config.repeats[0]:  # the first stage does not expand
            yield TensorName(block["conv0"], ("params", *path, "expand", "kernel"), conv)
            yield from norm(block["norm0"], (*path, "expand_norm"))
        yield TensorName(block["conv1"], ("params", *path, "depthwise"), depthwise)
        yield from norm(block["norm1"], (*path, "depthwise_norm"))
        for part in () if config.is_lite else ("reduce", "expand"):
            layer = ("params", *path, "squeeze_excite", part)
            yield TensorName(f"{block[part]}{separator}{kernel}", (*layer, "kernel"), squeezed)
            yield TensorName(f"{block[part]}{separator}bias", (*layer, "bias"), "same")
        yield TensorName(block["conv2"], ("params", *path, "project", "kernel"), conv)
        yield from norm(block["norm2"], (*path, "project_norm"))


def is_extra(name: str) -> bool:
    """Whether a tensor is known to hold no weight: counters, and an optimizer's variables."""
    return name.endswith((".num_batches_tracked", "/RMSProp", "/RMSProp_1", "/Momentum")) or name == "global_step"


def averaged(tensors: Tensors) -> Tensors:
    """A TensorFlow checkpoint's variables, each by its exponential moving average where it has one."""
    names = {name.removesuffix(_AVERAGE): name for name in sorted(tensors, key=lambda name: name.endswith(_AVERAGE))}
    return {plain: tensors[name] for plain, name in names.items()}


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
    whole = 1.0 if find_fixed(source) else nominal / (nominal + 32)
    crop_fraction = float(published.get("crop_pct") or whole)
    interpolation: Literal["bilinear", "bicubic"] = (
        "bilinear" if published.get("interpolation") == "bilinear" else "bicubic"
    )
    return Preprocessing(normalization_of(config, source, published), interpolation, crop_fraction)


def normalization_of(config: EfficientNetConfig, source: str, published: Mapping[str, Any]) -> Normalization:
    """How weights want pixels scaled: as their config.json says, else as their authors did it."""
    if "mean" in published and "std" in published:
        theirs = [255 * value for name in ("mean", "std") for value in published[name]]
        for name, (mean, deviation) in NORMALIZATIONS.items():
            if np.allclose(theirs, [*mean, *deviation], atol=0.01):
                return cast(Normalization, name)
        raise PretrainedError(
            f"{source}: config.json has mean {published['mean']} and std {published['std']}; set "
            f"model.encoder.normalization to one of {', '.join(NORMALIZATIONS)}"
        )
    if config.is_lite:
        return "lite"
    if fixed := find_fixed(source):
        return "imagenet" if fixed.has_extra_data else "advprop"
    is_adversarial = re.search(r"advprop|(^|[^a-z])(ap|adv)([^a-z]|$)", source.lower())
    return "advprop" if is_adversarial else "imagenet"


def load(config: EfficientNetConfig, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
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
    naming, prefix = find_naming(tensors, source)
    if naming == "tensorflow":
        tensors = averaged(tensors)
    if (variant := find_variant(source) or config.variant) != config.variant:
        raise PretrainedError(f"{source}: weights of {variant}, but model.encoder.variant is {config.variant}")
    names = [entry._replace(name=prefix + entry.name) for entry in table(config, naming, classifier=True)]
    kernel, bias = names[-2:]
    has_one = kernel.name in tensors or bias.name in tensors
    classes, origin = len(tensors.get(bias.name, ())), f"{source}{_about_fixed(source)}"
    if has_one and config.num_classes and classes in (0, config.num_classes):
        told = f"encoder: {len(names)} tensors from {origin}"
        return port(names, tensors, tree, source, extras=is_extra), told

    def is_left_out(name: str) -> bool:
        return name in (kernel.name, bias.name) or is_extra(name)

    params = dict(tree["params"])
    classifier = {"classifier": params.pop("classifier")} if "classifier" in params else {}
    body = port(names[:-2], tensors, {**tree, "params": params}, source, extras=is_left_out)
    body["params"] |= classifier
    which = f"the new one has {config.num_classes} classes" if config.num_classes else "num_classes is 0"
    return body, f"encoder: {len(names) - 2} tensors from {origin}, without its classifier ({which})"


def _about_fixed(source: str) -> str:
    if (fixed := find_fixed(source)) is None:
        return ""
    made_for = f"; made for images of {fixed.image_size} pixels" if fixed.image_size else ""
    return f" (FixEfficientNet, CC BY-NC 4.0: not for commercial use{made_for})"
