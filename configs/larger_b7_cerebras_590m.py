"""EfficientNet-B7 at 600 px and Cerebras-GPT 590M, as configs/larger.py pairs them."""

from larger import pair

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's experiment with these two."""
    return pair("b7", "cerebras/Cerebras-GPT-590M")
