"""A captioner as StableHLO: the encoder and the whole search in one function, for CPUs, GPUs and TPUs."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from safetensors.numpy import save

from dualcap_jax import inference
from dualcap_jax.captioner import Captioner
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.exporting import standalone
from dualcap_jax.files import replacing, write_text
from dualcap_jax.pretrained.tables import export, own_table, unflatten

PLATFORMS = ("cpu", "cuda", "tpu")


def export_stablehlo(captioner: Captioner, directory: Path, decoding: DecodingConfig, sizes: Sequence[int]) -> None:
    """Write what `standalone.load_exported` reads.

    Args:
        captioner: to export.
        directory: made where it is not there; files of these names are replaced.
        decoding: the search that is built in.
        sizes: of the batches that are built in; a batch of another size is filled up to the next.

    Raises:
        ConfigError: for a search by chance.
    """
    if decoding.do_sample:
        raise ConfigError("decoding.do_sample=True: what is exported draws nothing by chance; give False")
    weights = export(own_table(captioner.model), captioner.model)
    shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in weights.items()}
    side, tokenizer = captioner.config.data.image_size, captioner.tokenizer
    start, rules = captioner.rules(decoding)

    def caption(weights: dict[str, Array], images: UInt8[Array, "batch size size 3"]) -> dict[str, Array]:
        model = unflatten(captioner.model, {tuple(name.split(".")): value for name, value in weights.items()})
        features = inference.encode(captioner.config.model, model, images)
        keys = jnp.broadcast_to(jax.random.key(0), len(images))
        found = inference.search(captioner.config.model, model, features, np.array(start, np.int32), keys, rules)
        return found._asdict()

    functions = {}
    for size in sizes:
        images = jax.ShapeDtypeStruct((size, side, side, 3), np.uint8)
        exported = jax.export.export(jax.jit(caption), platforms=PLATFORMS)(shapes, images)
        functions[f"caption-{size}.stablehlo"] = bytes(exported.serialize())
    files = {**functions, "tokenizer.json": tokenizer.to_json().encode(), "weights.safetensors": save(weights)}
    for name, data in {**files, "caption.py": Path(standalone.__file__).read_bytes()}.items():
        with replacing(directory / name) as file:
            file.write_bytes(data)
    transform = captioner.config.data.transform
    manifest = {
        "format": "dualcap-stablehlo",
        "version": standalone.VERSION,
        "made_with": {name: version(name) for name in ("dualcap-jax", "jax", "jaxlib")},
        "platforms": PLATFORMS,
        "step": captioner.step,
        "image": {"size": transform.size, "resize": transform.resize, "interpolation": transform.interpolation},
        "search": {name: value for name, value in asdict(decoding).items() if name not in ("batch_size", "seed")},
        "end_id": tokenizer.end_id,
        "functions": {str(size): name for size, name in zip(sizes, functions, strict=True)},
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    write_text(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")  # last: without it, it is none
