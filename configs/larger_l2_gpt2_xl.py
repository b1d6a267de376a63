"""EfficientNet-L2 at 800 px and GPT-2 xl, as configs/larger.py pairs them."""

from larger import pair

from dualcap_jax.config import ExperimentConfig


def get_config() -> ExperimentConfig:
    """The original's experiment with these two."""
    return pair("l2", "gpt2-xl")
