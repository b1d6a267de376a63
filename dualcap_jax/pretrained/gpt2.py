"""GPT-2's names in Hugging Face's checkpoints, which are read and written."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from safetensors.numpy import save as save_tensors

from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.files import replacing, write_text
from dualcap_jax.models.language_models.gpt2 import Activation, GPT2Config
from dualcap_jax.pretrained.files import locate, read_config
from dualcap_jax.pretrained.tables import PretrainedError, TensorName, Tensors, Tree, TreePath, export, own_table, port

# What transformers' GPT2Config says beside the shape: ours is GPT-2 as published.
_REQUIRED: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "add_cross_attention": False,
}


def shaped(config: GPT2Config, published: Mapping[str, Any], source: str) -> GPT2Config:
    """The configuration with the shape that a checkpoint's config.json gives.

    Raises:
        PretrainedError: when it is of another kind of network.
    """
    known = {name: (required,) for name, required in _REQUIRED.items()} | {"activation_function": get_args(Activation)}
    for name, values in known.items():
        if (value := published.get(name, values[0])) not in values:
            told = " or ".join(map(repr, values))
            raise PretrainedError(f"{source}: config.json has {name}={value!r}; only {told} is GPT-2 as known here")
    try:
        width = published["n_embd"]
        shape = {
            "vocab_size": published["vocab_size"],
            "max_positions": published.get("n_positions", 1024),
            "width": width,
            "layers": published["n_layer"],
            "heads": published["n_head"],
            "activation": published.get("activation_function", "gelu_new"),
        }
    except KeyError as error:
        raise PretrainedError(f"{source}: config.json lacks {error}, which GPT-2's has") from None
    if published.get("n_inner") not in (None, 4 * width):
        raise PretrainedError(
            f"{source}: config.json has n_inner={published['n_inner']}; only {4 * width} is known here"
        )
    return replace(config, **shape)


def find_prefix(tensors: Tensors, source: str) -> str:
    """What stands before each name: "transformer." in a checkpoint with its output layer, else nothing.

    Raises:
        PretrainedError: when the tensors are not GPT-2's.
    """
    for prefix in ("", "transformer."):
        if f"{prefix}wte.weight" in tensors:
            return prefix
    raise PretrainedError(f"{source}: no GPT-2 in Hugging Face's names (wte.weight is not among the tensors)")


def table(config: GPT2Config, prefix: str = "") -> Iterator[TensorName]:
    """Line by line, what each array of the language model is called; paths begin with "params"."""

    def both(name: str, path: TreePath, kernel: str, kind: str) -> Iterator[TensorName]:
        yield TensorName(f"{prefix}{name}.weight", ("params", *path, kernel), kind)
        yield TensorName(f"{prefix}{name}.bias", ("params", *path, "bias"), "same")

    yield TensorName(f"{prefix}wte.weight", ("params", "token_embedding"), "same")
    yield TensorName(f"{prefix}wpe.weight", ("params", "position_embedding"), "same")
    for index in range(config.layers):
        path, name = ("blocks", str(index)), f"h.{index}"
        yield from both(f"{name}.ln_1", (*path, "attention_norm"), "scale", "same")
        yield from both(f"{name}.attn.c_attn", (*path, "attention", "qkv"), "kernel", "transposed")
        yield from both(f"{name}.attn.c_proj", (*path, "attention", "project"), "kernel", "transposed")
        yield from both(f"{name}.ln_2", (*path, "mlp_norm"), "scale", "same")
        yield from both(f"{name}.mlp.c_fc", (*path, "mlp_expand"), "kernel", "transposed")
        yield from both(f"{name}.mlp.c_proj", (*path, "mlp_project"), "kernel", "transposed")
    yield from both("ln_f", ("final_norm",), "scale", "same")


def is_extra(name: str) -> bool:
    """Whether a tensor is known to hold no weight of its own: attention's mask, and the tied output layer."""
    return name.endswith((".attn.bias", ".attn.masked_bias")) or name == "lm_head.weight"


def as_published(config: GPT2Config) -> GPT2Config:
    """The configuration with the shape of its pretrained weights.

    Raises:
        PretrainedError: when they cannot be had or are no GPT-2.
    """
    assert config.pretrained is not None
    published = read_config(locate(config.pretrained, config.revision))
    if not published:
        raise PretrainedError(f"{config.pretrained}: no config.json beside the weights")
    return shaped(config, published, config.pretrained)


def load(config: GPT2Config, tree: Tree, tensors: Tensors, source: str) -> tuple[dict[str, Any], str]:
    """The language model's {"params": ...} with the tensors of a file in it, and one sentence on what was done.

    Raises:
        PretrainedError: when the tensors do not fit.
    """
    if "params.language.token_embedding" in tensors:  # what scripts/port_weights.py wrote
        names = own_table(tree, ("language",))
    else:
        names = list(table(config, find_prefix(tensors, source)))
    return port(names, tensors, tree, source, extras=is_extra), f"language: {len(names)} tensors from {source}"


def save(config: GPT2Config, params: Tree, tokenizer: CaptionTokenizer, directory: Path) -> None:
    """Write config.json, model.safetensors and the tokenizer's files as transformers has them.

    `GPT2LMHeadModel.from_pretrained`, `GPT2Tokenizer.from_pretrained` and `model.language.pretrained` read them.

    Args:
        config: shape of the network.
        params: its parameters.
        tokenizer: gives the ids that it embeds.
        directory: made where it is not there; files of these names are replaced.

    Raises:
        ValueError: where `embedding_scale` is not 1, which transformers' GPT-2 does not have.
    """
    if config.embedding_scale != 1:
        raise ValueError(f"embedding_scale {config.embedding_scale}: transformers' GPT-2 has 1")
    with replacing(directory / "model.safetensors") as file:
        file.write_bytes(save_tensors(export(table(config, "transformer."), {"params": params}), {"format": "pt"}))
    tokenizer.save(directory)
    published = _REQUIRED | {
        "architectures": ["GPT2LMHeadModel"],
        "dtype": "float32",
        "vocab_size": config.vocab_size,
        "n_positions": config.max_positions,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "activation_function": config.activation,
        **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), config.dropout),
        "initializer_range": config.init_deviation,
        "bos_token_id": tokenizer.start_id,
        "eos_token_id": tokenizer.end_id,
    }
    write_text(directory / "config.json", json.dumps(published, indent=2) + "\n")
