"""Which places of an image speak for a word: Grad-CAM; and which the merger heeded."""

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8
from optax import softmax_cross_entropy_with_integer_labels
from PIL import Image

from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders import DETECTIONS, Encoded, encoded
from dualcap_jax.models.variables import Variables, bind

LEAST_SIDE = 256
"""Pixels that an overlay's sides have at least, whatever the network's input size."""


def grad_cam(
    score: Callable[[Array], Array], features: Float[Array, "height width channels"]
) -> Float[Array, "height width"]:
    """Grad-CAM (Selvaraju et al. 2017, equations 1 and 2), not normalised.

    Args:
        score: a number, of the feature maps.
        features: the maps, of one image.
    """
    weights = jax.grad(score)(features).mean((0, 1))
    return jax.nn.relu(features @ weights)


def usual_stride(size: int, strides: tuple[int, ...]) -> int:
    """The stride of the deepest feature maps of at least 7 x 7 places, as ResNet's in the paper are."""
    return max((stride for stride in strides if size >= 7 * stride), default=min(strides))


@partial(jax.jit, static_argnames=("config", "stride"))
def word_map(
    config: ModelConfig,
    variables: Variables,
    image: UInt8[Array, "size size 3"],
    tokens: Int[Array, "1 1 length"],
    of_word: Bool[Array, " length-1"],
    stride: int | None,
) -> Float[Array, "size size"]:
    """Grad-CAM of those tokens after the first that are `of_word`; see `Captioner.grad_cam`."""
    network = bind(config, variables)
    strides = tuple(stride for stride in network.encoder.channels if stride != DETECTIONS)
    if stride is None:
        stride = usual_stride(image.shape[0], strides)
    elif stride not in strides:
        raise ValueError(f"stride={stride}: must be one of {', '.join(map(str, strides))}, or None")
    every = network.encoder.maps(image[None])
    features = every[stride][0]
    before, labels = tokens[..., :-1], tokens[..., 1:]

    def log_prob(maps: Float[Array, "height width channels"]) -> Float[Array, ""]:
        given = maps[None].astype(features.dtype)
        changed = network.encoder.deeper_maps(every | {stride: given}, stride)
        image = network.look(Encoded(network.encoder.vector_of(changed), changed))
        logits = network.logits(image, before, jnp.ones_like(before, bool))
        return -jnp.sum(softmax_cross_entropy_with_integer_labels(logits, labels)[0, 0], where=of_word)

    return _enlarged(grad_cam(log_prob, features.astype(jnp.float32)), image.shape[0])


@partial(jax.jit, static_argnames="config")
def attention_map(
    config: ModelConfig,
    variables: Variables,
    image: UInt8[Array, "size size 3"],
    tokens: Int[Array, "1 1 length"],
    of_word: Bool[Array, " length-1"],
) -> Float[Array, "size size"]:
    """How much those tokens after the first that are `of_word` heeded each place; see `Captioner.attention_map`."""
    network, before = bind(config, variables), tokens[..., :-1]
    images = encoded(network.encoder, image[None], config.merger.reads)
    each = network.attention(images, before, jnp.ones_like(before, bool))
    size = image.shape[0]
    total = jnp.zeros((size, size))
    for stride, heeded in each.items():  # what a place is heeded, all pixels that it covers share
        places = jnp.sum(heeded[0, 0], 0, where=of_word[:, None, None])
        if stride == DETECTIONS:
            total += size**2 * _shared_out(places[:, 0], images.maps[stride][0, :, 0, -5:-1], size)
        else:
            total += jax.image.resize(places * places.size, total.shape, "bilinear")
    return _enlarged(total, size)


def _shared_out(heeded: Float[Array, " boxes"], boxes: Float[Array, "boxes 4"], size: int) -> Float[Array, "size size"]:
    """What boxes are heeded, each pixel of a box its share."""
    pixels = (jnp.arange(size) + 0.5) / size
    y0, x0, y1, x1 = boxes.astype(jnp.float32).T[..., None]
    rows, columns = (y0 <= pixels) & (pixels <= y1), (x0 <= pixels) & (pixels <= x1)  # [boxes, size]
    covered = rows.sum(1) * columns.sum(1)
    return jnp.einsum("b,by,bx->yx", heeded / jnp.maximum(covered, 1), rows, columns)


def _enlarged(places: Float[Array, "height width"], size: int) -> Float[Array, "size size"]:
    """From 0 to 1, the largest value 1 unless all are 0."""
    largest = places.max()
    return jax.image.resize(places / jnp.where(largest > 0, largest, 1), (size, size), "bilinear")


def overlay(image: UInt8[np.ndarray, "size size 3"], heatmap: Float[np.ndarray, "size size"]) -> Image.Image:
    """An image under a map of 0 (blue) to 1 (red), enlarged to at least `LEAST_SIDE` pixels.

    Args:
        image: as `Captioner.prepare` gives it.
        heatmap: what `Captioner.grad_cam` gave for it.
    """
    from matplotlib import colormaps  # slow to import, and seldom needed

    side = image.shape[0] * math.ceil(LEAST_SIDE / image.shape[0])
    colours = Image.fromarray(colormaps["jet"](heatmap, bytes=True)[..., :3])
    return Image.blend(Image.fromarray(image), colours, 0.4).resize((side, side), Image.Resampling.BICUBIC)
