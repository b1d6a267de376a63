"""A captioner as StableHLO: the encoder and the whole search in one function, for CPUs, GPUs and TPUs."""

from collections.abc import Sequence
from dataclasses import asdict
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
from dualcap_jax.exporting.folder import write_folder
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
    side = captioner.config.data.image_size
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
    about = {
        "format": "dualcap-stablehlo",
        "platforms": PLATFORMS,
        "search": {name: value for name, value in asdict(decoding).items() if name not in ("batch_size", "seed")},
        "functions": {str(size): name for size, name in zip(sizes, functions, strict=True)},
    }
    write_folder(captioner, directory, {**functions, "weights.safetensors": save(weights)}, ["jaxlib"], about)
