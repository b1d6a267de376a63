"""The original project's own state dict: the whole captioner, in its names."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp

from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.variables import Variables
from dualcap_jax.pretrained import efficientnet, gpt2
from dualcap_jax.pretrained.tables import PretrainedError, TensorName, Tensors, port


def original_table(config: ModelConfig) -> list[TensorName]:
    """What each array is called in the original project's state dict.

    Raises:
        PretrainedError: when the merger is not the original's.
    """
    if config.merger.kind != "skip_mlp" or config.merger.norm != "none":
        raise PretrainedError(
            f"model.merger.kind={config.merger.kind}, model.merger.norm={config.merger.norm}: "
            "the original's merger is skip_mlp without a norm"
        )
    if not isinstance(config.encoder, EfficientNetConfig) or not isinstance(config.language, GPT2Config):
        raise PretrainedError(
            f"model.encoder is {config.encoder.kind}, model.language is {config.language.kind}: the original's are "
            "efficientnet and gpt2"
        )

    def under(part: str, entries: Iterable[TensorName]) -> list[TensorName]:
        return [TensorName(name, (path[0], part, *path[1:]), layout) for name, path, layout in entries]

    encoder = efficientnet.table(config.encoder, "efficientnet-pytorch", classifier=True)
    table = under("encoder", (entry._replace(name=f"efficient.{entry.name}") for entry in encoder))
    table += under("language", gpt2.table(config.language, "transformer."))
    for ours, theirs in {"first": "1", "second": "2"}.items():
        for layer in ("encoder", "decoder"):
            path = ("params", "merger", ours, layer)
            table.append(TensorName(f"{layer}{theirs}.weight", (*path, "kernel"), "transposed"))
            table.append(TensorName(f"{layer}{theirs}.bias", (*path, "bias"), "same"))
    return table


def load_original(config: ModelConfig, model: Variables, tensors: Tensors, source: str) -> Variables:
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
