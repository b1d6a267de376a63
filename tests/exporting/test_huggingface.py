import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from dualcap_jax import Captioner
from dualcap_jax.models.variables import bind_language
from dualcap_jax.pretrained.files import read_tensors

from ..commands import TINY, run


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "folder"
    return folder, run("export", finished[0], folder, "--format", "huggingface").stdout


def test_the_whole_gives_the_same_captions_and_its_card_has_the_scores(exported, finished, rng):
    folder, printed = exported
    assert printed.count("\n") == 3
    images = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(3)]
    assert Captioner.from_pretrained(folder)(images) == Captioner.load(finished[0])(images)
    card, report = (folder / "README.md").read_text(), finished[0] / "evaluation" / "test-beam2.json"
    assert report.is_file()
    assert "| test-beam2 | BLEU-4 | " in card


def test_transformers_reads_the_language_model(exported, finished):
    folder, captioner = exported[0] / "language", Captioner.load(finished[0])
    theirs = GPT2LMHeadModel.from_pretrained(folder).double().eval()
    text = "two red squares"
    ids = AutoTokenizer.from_pretrained(folder)(f" {text}")["input_ids"]
    assert ids == captioner.tokenizer.encode(text, 100)[1:-1]
    with torch.inference_mode():
        expected = theirs(torch.tensor([ids])).logits.numpy()
    config = captioner.config.model
    language = bind_language(config.language, config.dtype, captioner.model["params"]["language"])
    tokens = jnp.array([ids])
    ours = np.asarray(language.logits(language.hidden(tokens, jnp.ones_like(tokens, bool))))
    np.testing.assert_allclose(ours, expected, atol=1e-4 * np.abs(expected).max())


def test_the_encoder_is_read_in_timms_names(exported, finished, tmp_path):
    folder, captioner = exported[0] / "encoder", Captioner.load(finished[0])
    tensors = read_tensors(folder / "model.safetensors")
    np.testing.assert_array_equal(
        tensors["conv_stem.weight"], np.asarray(captioner.model["params"]["encoder"]["stem"]).transpose(3, 2, 0, 1)
    )
    about = json.loads((folder / "config.json").read_text())
    assert about["architecture"] == "tf_efficientnet_b0"
    assert about["pretrained_cfg"]["input_size"] == [3, 32, 32]
    options = ["--model.encoder.pretrained", folder, "--training.freeze", "encoder", "--training.steps", 2]
    run("train", "--workdir", tmp_path / "run", *TINY, *options, "--training.warmup-steps", 1)
    again = Captioner.load(tmp_path / "run", "latest")
    assert again.config.model.encoder.normalization == "advprop"  # what none means
    jax.tree.map(np.testing.assert_array_equal, again.model["params"]["encoder"], captioner.model["params"]["encoder"])


def test_what_transformers_does_not_have_is_told(finished, tmp_path):
    options = ["--model.language.embedding-scale", 2, "--training.steps", 2, "--training.warmup-steps", 1]
    run("train", "--workdir", tmp_path / "run", *TINY, *options)
    printed = run("export", tmp_path / "run", tmp_path / "out", "--format", "huggingface").stdout
    told = f"{tmp_path / 'out' / 'language'}: left out, as transformers' GPT-2 has no embedding_scale, which is 2 here"
    assert told in printed
    assert not (tmp_path / "out" / "language").exists()
