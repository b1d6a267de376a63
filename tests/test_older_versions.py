"""What an older version wrote is read: version1.tar.xz holds a run directory and a saved captioner of version 0.1.0.

Both were trained for 60 steps on scenes; the run's own evaluation of its test split lies in it.
"""

import json
import tarfile
from pathlib import Path

import pytest

from dualcap_jax import Captioner, evaluate, train
from dualcap_jax.config import VERSION, load_experiment, load_json
from dualcap_jax.data.sources import open_source
from dualcap_jax.models.encoders import EfficientNetConfig


@pytest.fixture(scope="module")
def version1(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("version1")
    with tarfile.open(Path(__file__).with_name("version1.tar.xz")) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def expected(version1) -> dict:
    return json.loads((version1 / "run" / "evaluation" / "test-beam2.json").read_text())


def test_a_run_of_version_1_is_evaluated_to_the_same_captions_and_scores(version1, expected):
    assert evaluate.main([str(version1 / "run"), "--split", "test"]) == 0
    found = json.loads((version1 / "run" / "evaluation" / "test-beam2.json").read_text())
    assert found.keys() - expected.keys() == {"warnings"}  # newer, where there are any
    assert expected.keys() <= found.keys()
    for ours, theirs in zip(found["captions"], expected["captions"], strict=True):
        assert (ours["image_id"], ours["caption"]) == (theirs["image_id"], theirs["caption"])
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)


def test_a_captioner_saved_by_version_1_says_the_same(version1, expected):
    captioner = Captioner.from_pretrained(version1 / "saved")
    source = open_source(captioner.config.data, "test")
    captions = captioner([source[index].read_image() for index in range(len(source))])
    assert [caption.text for caption in captions] == [row["caption"] for row in expected["captions"]]


def test_a_run_of_version_1_is_trained_further_and_is_then_of_this_version(version1):
    workdir = version1 / "run"
    assert train.main(["--workdir", str(workdir), "--training.steps", "62"]) == 0
    assert json.loads((workdir / "config.json").read_text())["version"] == VERSION
    assert load_json(workdir / "config.json").training.steps == 62
    assert (workdir / "checkpoints" / "latest" / "62").is_dir()


def test_an_experiment_file_of_version_1_finds_what_it_imports(tmp_path):
    lines = [
        "from dualcap_jax.config import ExperimentConfig",
        "from dualcap_jax.models.dual import ModelConfig",
        "from dualcap_jax.models.efficientnet import EfficientNetConfig",
        "from dualcap_jax.models.gpt2 import GPT2Config",
        "def get_config(): return ExperimentConfig(ModelConfig(EfficientNetConfig('b1'), GPT2Config()))",
    ]
    (tmp_path / "experiment.py").write_text("\n".join(lines))
    assert load_experiment(tmp_path / "experiment.py").model.encoder == EfficientNetConfig("b1")


@pytest.mark.parametrize(("before", "now"), [(False, "none"), (True, "blocks")])
def test_what_version_2_said_of_remat_is_understood(before, now, tmp_path):
    model = {"encoder": {"kind": "efficientnet", "remat": before}, "language": {"kind": "gpt2", "remat": before}}
    (tmp_path / "config.json").write_text(json.dumps({"version": 2, "model": model}))
    read = load_json(tmp_path / "config.json").model
    assert (read.encoder.remat, read.language.remat) == (now, now)
