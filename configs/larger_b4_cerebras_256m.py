"""EfficientNet-B4 at 380 px and Cerebras-GPT 256M, as configs/larger.py pairs them."""

from larger import pair

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's experiment with these two."""
    return pair("b4", "cerebras/Cerebras-GPT-256M")
