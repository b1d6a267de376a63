"""EfficientNet-B8 at 672 px and GPT-2 large, as configs/larger.py pairs them."""

from larger import pair

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's experiment with these two."""
    return pair("b8", "gpt2-large")
