"""EfficientNet's names in timm, in efficientnet-pytorch, in the authors' TensorFlow checkpoints and in ported files."""

import re
from collections.abc import Iterator
from typing import Literal

from dualcap_jax.models.efficientnet import EfficientNetConfig
from dualcap_jax.pretrained.tables import Entry, Path, PretrainedError, Tensors

Naming = Literal["timm", "efficientnet-pytorch", "tensorflow", "ours"]

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


def table(config: EfficientNetConfig, naming: Naming, *, classifier: bool) -> Iterator[Entry]:
    """Line by line, what each array of the encoder is called; paths begin with "params" or "batch_stats".

    Args:
        config: the network's.
        naming: whose names.
        classifier: whether the classifier's kernel and bias are among them, as the last two.
    """
    if naming == "ours":
        for _, (kind, *rest), _ in table(config, "timm", classifier=classifier):
            yield Entry(".".join((kind, "encoder", *rest)), (kind, *rest), "same")
        return
    names, classifier_name = _NAMES[naming]
    library = "tensorflow" if naming == "tensorflow" else "torch"
    conv, depthwise, squeezed, dense = _LAYOUTS[library]
    separator, kernel = ("/", "kernel") if library == "tensorflow" else (".", "weight")

    def norm(name: str, path: Path) -> Iterator[Entry]:
        for ours, theirs in _NORM_SUFFIXES[library].items():
            kind = "batch_stats" if ours in ("mean", "var") else "params"
            yield Entry(f"{name}{separator}{theirs}", (kind, *path, ours), "same")

    whole, *blocks = names(config)
    yield Entry(whole["stem"], ("params", "stem"), conv)
    yield from norm(whole["stem_norm"], ("stem_norm",))
    for index, block in enumerate(blocks):
        path = ("blocks", str(index))
        if index >= config.repeats[0]:  # the first stage does not expand
            yield Entry(block["conv0"], ("params", *path, "expand", "kernel"), conv)
            yield from norm(block["norm0"], (*path, "expand_norm"))
        yield Entry(block["conv1"], ("params", *path, "depthwise"), depthwise)
        yield from norm(block["norm1"], (*path, "depthwise_norm"))
        for part in () if config.is_lite else ("reduce", "expand"):
            layer = ("params", *path, "squeeze_excite", part)
            yield Entry(f"{block[part]}{separator}{kernel}", (*layer, "kernel"), squeezed)
            yield Entry(f"{block[part]}{separator}bias", (*layer, "bias"), "same")
        yield Entry(block["conv2"], ("params", *path, "project", "kernel"), conv)
        yield from norm(block["norm2"], (*path, "project_norm"))
    yield Entry(whole["head"], ("params", "head", "kernel"), conv)
    yield from norm(whole["head_norm"], ("head_norm",))
    if classifier:
        yield Entry(classifier_name.format(kernel), ("params", "classifier", "kernel"), dense)
        yield Entry(classifier_name.format("bias"), ("params", "classifier", "bias"), "same")


def is_extra(name: str) -> bool:
    """Whether a tensor is known to hold no weight: counters, and an optimizer's variables."""
    return name.endswith((".num_batches_tracked", "/RMSProp", "/RMSProp_1", "/Momentum")) or name == "global_step"


def averaged(tensors: Tensors) -> Tensors:
    """A TensorFlow checkpoint's variables, each by its exponential moving average where it has one."""
    names = {name.removesuffix(_AVERAGE): name for name in sorted(tensors, key=lambda name: name.endswith(_AVERAGE))}
    return {plain: tensors[name] for plain, name in names.items()}
