"""The original's experiment with larger parts, in bfloat16: here EfficientNet-B7 at 600 px and GPT-2 medium.

    python -m dualcap_jax.train --config configs/larger.py --data.root COCO_DIRECTORY

The files beside it, larger_*.py, name other pairs. docs/fit.md tells the memory of each.
"""

from dataclasses import replace
from typing import Any

from coco_b4_gpt2 import get_config as original

from dualcap_jax.config import ExperimentConfig
from dualcap_jax.models.encoders import EfficientNetConfig
from dualcap_jax.models.encoders.efficientnet import Variant
from dualcap_jax.models.language_models import GPT2Config

ENCODERS: dict[Variant, tuple[str, int]] = {  # weights, and the side of the images that they were trained on
    "b4": ("timm/tf_efficientnet_b4.ap_in1k", 380),
    "b7": ("timm/tf_efficientnet_b7.ap_in1k", 600),
    "b8": ("timm/tf_efficientnet_b8.ap_in1k", 672),
    "l2": ("timm/tf_efficientnet_l2.ns_jft_in1k", 800),
}

_CEREBRAS = {"max_positions": 2048, "activation": "gelu"}

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {  # as their config.json says, so that `fit` need not look them up
    "gpt2-medium": {"width": 1024, "layers": 24, "heads": 16},
    "gpt2-large": {"width": 1280, "layers": 36, "heads": 20},
    "gpt2-xl": {"width": 1600, "layers": 48, "heads": 25},
    "cerebras/Cerebras-GPT-111M": {"width": 768, "layers": 10, "heads": 12} | _CEREBRAS,
    "cerebras/Cerebras-GPT-256M": {"width": 1088, "layers": 14, "heads": 17} | _CEREBRAS,
    "cerebras/Cerebras-GPT-590M": {"width": 1536, "layers": 18, "heads": 12} | _CEREBRAS,
    "cerebras/Cerebras-GPT-1.3B": {"width": 2048, "layers": 24, "heads": 16} | _CEREBRAS,
}


def pair(variant: Variant, language: str) -> ExperimentConfig:
    """The experiment with these two."""
    base = original()
    weights, side = ENCODERS[variant]
    model = replace(
        base.model,
        encoder=EfficientNetConfig(variant=variant, pretrained=weights, remat="blocks"),
        language=GPT2Config(pretrained=language, remat="blocks", **LANGUAGE_MODELS[language]),
        dtype="bfloat16",
    )
    # What else there is to the transform, the weights know.
    return replace(base, model=model, data=replace(base.data, image_size=side, resize=None, interpolation=None))


def get_config() -> ExperimentConfig:
    """The smallest of GPT-2's larger ones."""
    return pair("b7", "gpt2-medium")
