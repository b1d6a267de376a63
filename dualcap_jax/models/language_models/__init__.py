"""Language models, by kind."""

from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.language_models.language_model import LanguageModel, LanguageModelConfig

LANGUAGE_MODELS: dict[str, type[LanguageModelConfig]] = {"gpt2": GPT2Config}
"""The configuration of each kind; it builds the module."""

__all__ = ["LANGUAGE_MODELS", "GPT2Config", "LanguageModel", "LanguageModelConfig"]
