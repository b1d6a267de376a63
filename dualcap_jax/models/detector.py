"""A detector: an EfficientDet alone, and what it finds."""

from dataclasses import dataclass, field
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Float32, Num

from dualcap_jax.detection.nms import Detections, Method, suppress
from dualcap_jax.fields import check_types
from dualcap_jax.models.encoders import EfficientDetConfig
from dualcap_jax.models.encoders.anchors import decode_boxes

CANDIDATES = 5000
"""Boxes of an image, the best, of which those that overlap a better one are left out."""


@dataclass(frozen=True)
class DetectorConfig:
    """The detector's network; the defaults are the small one of the embedded scenes."""

    encoder: EfficientDetConfig = field(
        default_factory=lambda: EfficientDetConfig(
            variant="d0",
            width=0.5,
            depth=0.5,
            channels=32,
            cells=2,
            repeats=2,
            finest=2,  # shapes are 5 to 23 of 64 pixels
            coarsest=5,
            anchor_scale=1.5,
            num_classes=24,
            drop_connect=0.0,
            batch_norm_momentum=0.99,  # with less, the variances of coarse levels, which find little, are far off
        )
    )
    """The EfficientDet. Its number of classes is that of the data."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Kind of number that the network computes with. Parameters, norms, losses and statistics stay float32. float16
    trains with dynamic loss scaling. The 16-bit kinds are for accelerators: on most CPUs they are slower."""

    def __post_init__(self) -> None:
        check_types(self, "model.")


class Detector(nnx.Module):
    """An EfficientDet with its heads.

    Args:
        config: shape of the network.
        rngs: gives the initial parameters.
    """

    def __init__(self, config: DetectorConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = config.encoder.build(dtype=jnp.dtype(config.dtype), rngs=rngs)

    def __call__(
        self, images: Num[Array, "batch height width 3"], key: jax.Array | None = None
    ) -> tuple[Float32[Array, "batch anchors classes"], Float32[Array, "batch anchors 4"]]:
        """Logits of the classes and boxes relative to the anchors; with a key in training."""
        return self.encoder.detect(images, train=key is not None, key=key)

    def find(
        self,
        logits: Float[Array, "batch anchors classes"],
        outputs: Float[Array, "batch anchors 4"],
        image_size: int,
        most: int = 100,
        method: Method = "hard",
    ) -> Detections:
        """What the outputs tell of images of this side: the boxes in pixels, cut at the edges, the best first."""
        anchors = jnp.asarray(self.config.encoder.anchors(image_size))
        classes = logits.shape[-1]

        def of_image(logits: Float[Array, "anchors classes"], outputs: Float[Array, "anchors 4"]) -> Detections:
            best, places = jax.lax.top_k(logits.reshape(-1), min(CANDIDATES, logits.size))
            at = places // classes
            boxes = jnp.clip(decode_boxes(outputs[at], anchors[at]), 0, image_size)
            return suppress(boxes, jax.nn.sigmoid(best), places % classes, most, method=method)

        return jax.vmap(of_image)(logits, outputs)
