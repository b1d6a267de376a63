"""A network and a batch small enough for a laptop's second."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dualcap_jax import Captioner, ExperimentConfig
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.encoding import features_of
from dualcap_jax.models import variables
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.mergers import MergerConfig


def tiny_model(dtype="float32", batch_norm="frozen", dropout=0.0, **merger) -> ModelConfig:
    encoder = EfficientNetConfig(
        "b0", 0.25, 0.2, num_classes=12, dropout=dropout, drop_connect=dropout, batch_norm=batch_norm
    )
    language = GPT2Config(60, 16, width=16, layers=1, heads=2, dropout=dropout)
    return ModelConfig(encoder, language, MergerConfig(**{"hidden": (8, 8), "positions": 16, **merger}), dtype)


def untrained_captioner(caption: str) -> Captioner:
    """A captioner whose tokenizer knows a caption, most words as several tokens."""
    tokenizer = train_tokenizer([caption], 270)
    model = tiny_model()
    model = replace(model, language=replace(model.language, vocab_size=tokenizer.vocab_size, max_positions=64))
    config = ExperimentConfig(model=model, data=DataConfig(image_size=48))
    return Captioner(config, variables.init(config.model, 0), tokenizer, 0)


def random_batch(batch=4, captions=2, length=9, seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, length + 1, (batch, captions, 1))
    mask = np.arange(length) < lengths
    return {
        "image": rng.integers(0, 256, (batch, 32, 32, 3), np.uint8),
        "tokens": np.where(mask, rng.integers(0, 60, mask.shape), 0).astype(np.int32),
        "mask": mask,
        "image_id": np.arange(batch),
    }


def with_features(teacher: ModelConfig, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A batch with random features as of a teacher that sees images larger than the student's."""
    blank = jax.ShapeDtypeStruct((len(batch["image"]), 48, 48, 3), jnp.uint8)
    shapes = jax.eval_shape(partial(features_of, teacher), variables.shapes(teacher), blank)
    rng = np.random.default_rng(0)
    return batch | {f"teacher_{name}": rng.standard_normal(each.shape, np.float32) for name, each in shapes.items()}
