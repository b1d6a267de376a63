"""What it takes to try another encoder: a vision transformer in a file of one's own, trained, saved, decoded."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from flax import nnx

from dualcap_jax import Captioner, train
from dualcap_jax.models.encoders import ENCODERS, EncoderConfig
from dualcap_jax.models.encoders.encoder import normalize

from .commands import SCENES


@dataclass(frozen=True)
class ViTConfig(EncoderConfig):
    kind: ClassVar[str] = "vit"
    patch: int = 8
    width: int = 16

    def build(self, *, dtype, rngs):
        return ViT(self, dtype, rngs)


class ViT(nnx.Module):
    def __init__(self, config, dtype, rngs):
        self.config, self.dtype, self.num_features = config, dtype, config.width
        self.channels = {config.patch: config.width}
        patch = (config.patch, config.patch)
        self.embed = nnx.Conv(3, config.width, patch, strides=patch, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, dtype=dtype, rngs=rngs)
        self.attend = nnx.MultiHeadAttention(2, config.width, decode=False, dtype=dtype, rngs=rngs)

    def maps(self, images, *, train=False, key=None):
        x = self.embed(normalize(images, self.config.normalization).astype(self.dtype))
        tokens = x.reshape(len(x), -1, self.config.width)
        return {self.config.patch: (tokens + self.attend(self.norm(tokens))).reshape(x.shape)}

    def deeper_maps(self, maps, stride):
        return maps

    def vector_of(self, maps, *, train=False, key=None):
        return maps[self.config.patch].mean((1, 2))

    def vector(self, images, *, train=False, key=None):
        return self.vector_of(self.maps(images))


EXPERIMENT = """
from dualcap_jax import ExperimentConfig
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.language_models import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from tests.test_new_encoder import ViTConfig

def get_config():
    language = GPT2Config(max_positions=32, width=16, layers=1, heads=2)
    return ExperimentConfig(ModelConfig(ViTConfig(), language, MergerConfig(hidden=(8, 8))))
"""


def test_an_encoder_of_another_kind_is_trained_saved_and_decoded(tmp_path, monkeypatch):
    monkeypatch.setitem(ENCODERS, "vit", ViTConfig)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    options = "--training.steps 2 --training.batch-size 4 --model.encoder.patch 4 --data.image-size 32"
    workdir = tmp_path / "run"
    arguments = ["--config", str(tmp_path / "experiment.py"), "--workdir", str(workdir), *options.split(), *SCENES]
    assert train.main(arguments) == 0

    captioner = Captioner.load(workdir)
    assert captioner.config.model.encoder == ViTConfig(patch=4)
    images = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), np.uint8)
    captions = captioner(list(images), max_length=8)
    assert captioner.grad_cam(images[0], "two red rings", "red").shape == (32, 32)
    with pytest.raises(ValueError, match="stride=8: must be one of 4, or None"):
        captioner.grad_cam(images[0], "two red rings", "red", stride=8)

    captioner.save_pretrained(tmp_path / "saved")
    assert Captioner.from_pretrained(tmp_path / "saved")(list(images), max_length=8) == captions
