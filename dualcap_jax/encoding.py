"""Encode once: what a frozen encoder makes of the images is computed before training, not again at each epoch."""

import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8
from tqdm import tqdm

from dualcap_jax.data import features
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.pipeline import decoded_batches
from dualcap_jax.data.records import Source
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import encoded
from dualcap_jax.models.variables import Variables, bind

SHAPE = ("variant", "width", "depth", "channels", "cells", "finest", "coarsest", "anchor_scale", "detections")
"""Fields of encoders' configs, where they have them, that features hang on."""
BATCH = 32
"""Images encoded together."""


@partial(jax.jit, static_argnames="config")
def features_of(
    config: ModelConfig, variables: Variables, images: UInt8[Array, "batch size size 3"]
) -> dict[str, Array]:
    """The features of images, by the names that they have in a batch."""
    found = encoded(bind(config, variables).encoder, images, config.merger.reads)
    return {"vector": found.vector, **{f"{features.MAPS}{stride}": maps for stride, maps in found.maps.items()}}


def made_with(config: ModelConfig, data: DataConfig, variables: Variables) -> dict[str, Any]:
    """All that features hang on: the encoder, its weights, the image transform, and which features they are."""
    encoder, transform = config.encoder, data.transform
    weights = [variables[kind].get("encoder", {}) for kind in ("params", "batch_stats")]
    shape = {name: value for name, value in asdict(encoder).items() if name in SHAPE}
    return {
        "encoder": {"kind": encoder.kind, **shape, "pretrained": encoder.pretrained},
        "normalization": encoder.normalization,
        "weights": checksum(jax.tree.leaves(weights)),
        "image_size": transform.size,
        "resize": transform.resize,
        "interpolation": transform.interpolation,
        "dtype": config.dtype,
        "strides": list(config.merger.reads),
    }


def checksum(arrays: Iterable[Array | np.ndarray]) -> str:
    """Of what arrays hold, one after the other."""
    found = 0
    for array in arrays:
        found = zlib.crc32(np.asarray(array).tobytes(), found)
    return f"{found:08x}"


def encode_once(
    config: ModelConfig, data: DataConfig, variables: Variables, source: Source, directory: Path, split: str
) -> None:
    """Compute the features of a source, unless they are there; an interrupted computation goes on.

    Args:
        config: the network; its encoder must be frozen for the features to be of use.
        data: as the source was opened with.
        variables: the network's.
        source: the images.
        directory: where the features of all splits are.
        split: the source's.

    Raises:
        DataError: the directory holds others; the disk has no room; or an image is broken.
    """
    about, place = made_with(config, data, variables), directory / split
    views = data.views if split == "train" and data.augments else 0
    if views:
        about |= {name: getattr(data, name) for name in ("views", "crop_scale", "crop_share", "flip")}
    if features.is_whole(place, about, source):
        return
    blank = jax.ShapeDtypeStruct((BATCH, data.image_size, data.image_size, 3), jnp.uint8)
    shapes = {
        name: each.shape[1:] for name, each in jax.eval_shape(partial(features_of, config), variables, blank).items()
    }

    def batches(start: int) -> Iterator[tuple[list[int], features.Arrays, dict[int, str]]]:
        total = max(views, 1) * len(source)
        with tqdm(desc=f"encoding {split}", total=total, initial=start, unit="image", disable=None) as bar:
            for positions, images, broken in decoded_batches(source, data, BATCH, start, views):
                found: features.Arrays = {}
                if positions:
                    filled = np.resize(images, (BATCH, *images.shape[1:]))
                    found = jax.device_get(features_of(config, variables, filled))
                yield positions, {name: values[: len(positions)] for name, values in found.items()}, broken
                bar.update(len(positions) + len(broken))

    features.write(place, about, source, shapes, max(views, 1), batches)
