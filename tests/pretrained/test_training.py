"""The train command on published weights."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from dualcap_jax.config import load_json
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.models import variables
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.pretrained import efficientnet
from dualcap_jax.pretrained.files import read_tensors
from dualcap_jax.pretrained.tables import export
from dualcap_jax.training.restoring import restore_model
from tests.commands import TINY, run

from .test_backbones import encoder_tree


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Directories of an encoder as timm and a language model as transformers writes them."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    encoder, language = tmp_path_factory.mktemp("encoder"), tmp_path_factory.mktemp("language")
    config = EfficientNetConfig(width=0.25, depth=0.2, num_classes=11)
    tree = encoder_tree(config, seed=3)
    save_file(export(efficientnet.table(config, "timm", classifier=True), tree), encoder / "model.safetensors")
    (encoder / "config.json").write_text(
        json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "crop_pct": 0.875})
    )
    tokenizer = train_tokenizer(["A red square above two blue rings."] * 3, 300)
    tokenizer.save(language)
    shape = {"n_positions": 40, "n_embd": 24, "n_layer": 2, "n_head": 2}
    transformers.GPT2Model(transformers.GPT2Config(vocab_size=tokenizer.vocab_size, **shape)).save_pretrained(language)
    return encoder, language


def test_training_starts_from_published_weights_with_what_belongs_to_them(published, tmp_path):
    encoder, language = published
    backbones = ["--model.encoder.pretrained", encoder, "--model.language.pretrained", language]
    still = [*TINY, "--training.learning-rate", 0, *backbones]
    done = run("train", "--workdir", tmp_path / "run", *still, "--training.steps", 2)
    assert "without its classifier (the new one has 16 classes)" in done.stdout
    config = load_json(tmp_path / "run" / "config.json")
    assert config.model.encoder.normalization == "advprop"
    assert (config.data.resize, config.data.interpolation) == (36, "bicubic")
    assert (config.model.language.width, config.model.language.layers) == (24, 2)
    model, _ = restore_model(tmp_path / "run", variables.shapes(config.model), "latest")
    stem = read_tensors(encoder)["conv_stem.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(model["params"]["encoder"]["stem"], stem)
    np.testing.assert_array_equal(model["params"]["language"]["token_embedding"], read_tensors(language)["wte.weight"])
    resumed = run("train", "--workdir", tmp_path / "run", *still, "--training.steps", 3)
    assert "(resuming)" in resumed.stdout
    assert "tensors from" not in resumed.stdout


def test_a_vocabulary_that_disagrees_with_the_embedding_is_refused(published, tmp_path):
    _, language = published
    train_tokenizer(["Quite another set of words in captions."], 290).save(tmp_path / "tokenizer")
    backbone = ["--model.language.pretrained", language, "--data.tokenizer", tmp_path / "tokenizer"]
    refused = run("train", "--workdir", tmp_path / "run", *TINY, *backbone, code=2)
    assert "they must be of one vocabulary" in refused.stderr
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_had_stop_the_run_before_it_begins(tmp_path):
    for part, name in (("encoder", "timm/tf_efficientnet_b0.ap_in1k"), ("language", "./nowhere")):
        refused = run("train", "--workdir", tmp_path / "run", *TINY, f"--model.{part}.pretrained", name, code=2)
        assert name in refused.stderr
        assert not (tmp_path / "run").exists()
