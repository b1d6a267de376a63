"""A captioner as ONNX: the encoder, one step of the language model, the merger with the output layer."""

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, UInt8

from dualcap_jax.captioner import Captioner
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError, UserError
from dualcap_jax.exporting import Precision
from dualcap_jax.exporting.folder import write_folder
from dualcap_jax.models.dual import DualCaptioner
from dualcap_jax.models.encoders import EfficientDetConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.mergers import Attention, MergerState, merge_step
from dualcap_jax.models.variables import bind

SEARCHED = ("num_beams", "max_length", "length_penalty", "early_stopping", "no_repeat_ngram_size", "min_length")
"""Settings that the search of `standalone` knows, and the page's."""
ELSEWHERE = ("prompt", "batch_size", "seed", "num_return_sequences")
"""Settings that have a place of their own, or none where one image is searched at a time."""


def export_onnx(captioner: Captioner, directory: Path, decoding: DecodingConfig, precision: Precision) -> None:
    """Write what `standalone.load_exported` reads.

    Args:
        captioner: to export.
        directory: made where it is not there; files of these names are replaced.
        decoding: the search whose settings are noted.
        precision: of the weights.

    Raises:
        UserError: what it needs is not installed.
        ConfigError: for a network or a search that it can't write.
    """
    usual = DecodingConfig()
    for field in fields(DecodingConfig):
        value = getattr(decoding, field.name)
        if field.name not in (*SEARCHED, *ELSEWHERE) and value != getattr(usual, field.name):
            raise ConfigError(
                f"decoding.{field.name}={value!r}: ONNX's search has {getattr(usual, field.name)!r} alone"
            )
    encoder = captioner.config.model.encoder
    if isinstance(encoder, EfficientDetConfig):
        raise ConfigError(f"model.encoder.kind={encoder.kind}: its pooling is not written as ONNX; use stablehlo")
    language = captioner.config.model.language
    if not isinstance(language, GPT2Config):
        raise ConfigError(f"model.language.kind={language.kind}: a step of it is not written as ONNX, one of gpt2 is")
    start, _ = captioner.rules(decoding)
    files = {f"{name}.onnx": _converted(part, precision) for name, part in _parts(captioner, decoding).items()}
    about = {
        "format": "dualcap-onnx",
        "precision": precision,
        "search": {name: value for name, value in asdict(decoding).items() if name in SEARCHED},
        "start": start,
        "state": [leaf.shape[1:] for leaf in jax.tree.leaves(_first_state(captioner))],
        "cache": [language.layers, decoding.max_length, language.width],
    }
    write_folder(captioner, directory, files, ("jax2onnx", "onnx"), about)


Part = tuple[Callable[..., Any], list[jax.ShapeDtypeStruct]]
"""A function of arrays, and their shapes; a dimension that is text is free."""


def _parts(captioner: Captioner, decoding: DecodingConfig) -> dict[str, Part]:
    config, side = captioner.config.model, captioner.config.data.image_size
    language: Any = replace(config.language, remat="none")
    config = replace(config, encoder=replace(config.encoder, remat="none"), language=language)
    network = _settled(bind(config, captioner.model), side)
    image = jax.eval_shape(network.encode, jax.ShapeDtypeStruct((1, side, side, 3), np.uint8))
    state = _first_state(captioner)
    leaves, tree = jax.tree.flatten((image, state))

    def encoder(images: UInt8[Array, "batch size size 3"]) -> tuple[Array, ...]:
        return tuple(jax.tree.leaves(network.encode(images)))

    def step(
        tokens: Int[Array, " rows"],
        position: Int[Array, ""],
        keys: Float[Array, "layers rows length width"],
        values: Float[Array, "layers rows length width"],
    ) -> tuple[Array, Array, Array]:
        return _language_step(network.language, tokens, position, keys, values)

    def merger(hidden: Float[Array, "rows width"], position: Int[Array, ""], *leaves: Array) -> tuple[Array, ...]:
        image, state = jax.tree.unflatten(tree, leaves)
        merged, state = merge_step(network.merger, image, hidden[:, None], position, state)
        return merged[:, 0] @ network.language.output_embedding.T, *jax.tree.leaves(state)

    def free(dtype: Any, *shape: int, at: int = 0) -> Any:
        return jax.ShapeDtypeStruct((*shape[:at], "rows", *shape[at:]), dtype)  # type: ignore[arg-type]

    position, width = jax.ShapeDtypeStruct((), np.int32), language.width
    cache = free(np.float32, language.layers, decoding.max_length, width, at=1)
    return {
        "encoder": (encoder, [free(np.uint8, side, side, 3)]),
        "language": (step, [free(np.int32), position, cache, cache]),
        "merger": (
            merger,
            [free(np.float32, width), position, *(free(leaf.dtype, *leaf.shape[1:]) for leaf in leaves)],
        ),
    }


def _first_state(captioner: Captioner) -> MergerState:
    """Of the merger, for one caption: zeros."""
    return bind(captioner.config.model, captioner.model).merger.init_state(1, 1)


def _settled(network: DualCaptioner, side: int) -> DualCaptioner:
    """The network with what hangs on the size of its images alone computed already."""
    if isinstance(network.merger, Attention):
        for places, stride in zip(network.merger.places, network.merger.strides, strict=True):
            assert places.positions is not None  # as of detections, whose encoder is refused
            positions = places.positions[...]
            shape = -(-side // stride), -(-side // stride), positions.shape[-1]
            places.positions = nnx.Param(jax.image.resize(positions, shape, "linear"))
    return network


def _language_step(
    language: Any,
    tokens: Int[Array, " rows"],
    position: Int[Array, ""],
    keys: Float[Array, "layers rows length width"],
    values: Float[Array, "layers rows length width"],
) -> tuple[Float[Array, "rows width"], Float[Array, "layers rows width"], Float[Array, "layers rows width"]]:
    """GPT-2's hidden state of one more token of each row, and the keys and values that the caller notes for it."""
    x = language.config.embedding_scale * language.token_embedding[...][tokens]
    x = (x + language.position_embedding[...][position])[:, None]  # [rows, 1, width]
    before = jnp.arange(keys.shape[2]) < position
    new_keys, new_values = [], []
    for layer, block in enumerate(language.blocks):
        heads = block.attention.heads
        q, k, v = jnp.split(block.attention.qkv(block.attention_norm(x))[:, 0], 3, axis=1)
        new_keys.append(k)
        new_values.append(v)

        def by_head(x: Array, heads: int = heads) -> Array:
            return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)

        q, k, v, past_keys, past_values = map(by_head, (q, k, v, keys[layer], values[layer]))
        past = jnp.where(before, jnp.einsum("rhd,rphd->rhp", q, past_keys), -1e30)
        scores = jnp.concatenate([past, (q * k).sum(-1, keepdims=True)], -1) / q.shape[-1] ** 0.5
        weights = jax.nn.softmax(scores)
        read = jnp.einsum("rhp,rphd->rhd", weights[..., :-1], past_values) + weights[..., -1:] * v
        x = x + block.attention.project(read.reshape(*x.shape))
        x = x + block.feed_forward(x)
    return language.final_norm(x)[:, 0], jnp.stack(new_keys), jnp.stack(new_values)


@contextmanager
def _portable() -> Iterator[None]:
    """Trace what is written for one kind of device in its way for all of them, and let the converter be quiet."""

    def portable(*args: Any, default: Callable[..., Any], **others: Callable[..., Any]) -> Any:
        return default(*args)

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with mock.patch("jax.lax.platform_dependent", portable):
            yield
    finally:
        logging.disable(before)


def _converted(part: Part, precision: Precision) -> bytes:
    function, shapes = part
    try:
        with _portable():
            model = importlib.import_module("jax2onnx").to_onnx(function, shapes)
        return _smaller(_with_products(model.SerializeToString()), precision)
    except ModuleNotFoundError as error:
        raise UserError(
            f"ONNX needs {error.name}: pip install 'dualcap-jax[onnx]', then pip install --no-deps jax2onnx"
        ) from None


def _with_products(data: bytes) -> bytes:
    """The graph with what is constant computed, and with MatMul for each product with constant weights.

    The converter writes all products as Einsum, which onnxruntime computes more slowly and does not quantise.
    """
    import onnx
    import onnxruntime

    with TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3  # errors
        onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        model = onnx.load(options.optimized_model_filepath)
    constants = {each.name: each for each in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Einsum" and node.input[-1] in constants:
            order = _order_of_weights(node.attribute[0].s.decode())
            if order is None:
                continue
            name = f"{node.input[1]}_{order}"
            weights = onnx.numpy_helper.to_array(constants[node.input[1]])
            constants[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(weights.transpose(order)), name)
            node.op_type, node.input[1] = "MatMul", name
            del node.attribute[:]
    used = {*_names_read(model.graph), *(each.name for each in model.graph.output)}
    del model.graph.initializer[:]
    model.graph.initializer.extend(each for name, each in constants.items() if name in used)
    folded: bytes = model.SerializeToString()
    return folded


def _names_read(graph: Any) -> Iterator[str]:
    """What its nodes take, those of loops' bodies too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _names_read(attribute.g)


def _order_of_weights(equation: str) -> tuple[int, int] | None:
    """How a matrix of weights must lie for MatMul to compute what Einsum does; None where MatMul can't."""
    terms, result = equation.replace(" ", "").split("->")
    first, *others = terms.split(",")
    if len(others) != 1 or len(others[0]) != 2 or first[-1] not in others[0]:
        return None
    summed, kept = first[-1], others[0].replace(first[-1], "")
    if result != first[:-1] + kept:
        return None
    return (0, 1) if others[0] == summed + kept else (1, 0)


def _smaller(data: bytes, precision: Precision) -> bytes:
    """The graph with weights of this precision."""
    if precision == "float16":
        from onnx import load_from_string
        from onnxruntime.transformers.float16 import convert_float_to_float16

        halved = convert_float_to_float16(load_from_string(data), keep_io_types=True)
        data = halved.SerializeToString()
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        with TemporaryDirectory() as folder:
            whole, small = Path(folder) / "whole.onnx", Path(folder) / "small.onnx"
            whole.write_bytes(data)
            quantize_dynamic(whole, small, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
            data = small.read_bytes()
    return data
