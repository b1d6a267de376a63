"""Mistakes on the command line: each names the thing, the value and the mend, before any heavy work."""

import json

import pytest

from dualcap_jax import caption, train
from dualcap_jax.cli import run as run_main
from dualcap_jax.config import ExperimentConfig, load_experiment, load_json, save_json
from dualcap_jax.errors import ConfigError


def errors_of(main, args, capsys, monkeypatch) -> tuple[int, str]:
    """Exit code, and all that is printed."""
    monkeypatch.setattr("sys.argv", ["command", *map(str, args)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    printed = capsys.readouterr()
    return stopped.value.code, " ".join((printed.out + printed.err).split())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--training.batch-size", "0"], "training.batch_size=0: must be at least 1"),
        (["--training.batch_size", "0"], "training.batch_size=0: must be at least 1"),
        (["--training.steps", "many"], "--training.steps"),
        (["--training.speed", "3"], "--training.speed"),
        (["--model.language.heads", "7"], "model.language.heads=7: must divide model.language.width="),
        (["--data.image-size", "64", "--data.resize", "32"], "crop larger than the image"),
        (["--data.max-length", "1000"], "data.max_length=1000: must be at most model.language.max_positions"),
        (["--decoding.num-beams", "-1"], "decoding.num_beams=-1: must be at least 1"),
        (["--model.merger.kind", "mlp"], "--model.merger.kind"),
        (["--config", "nowhere.py"], "--config nowhere.py: no such file"),
        (["--data.root", "nowhere"], "data.root='nowhere' is not a directory"),
        (["--data.tokenizer", "./nowhere"], "nowhere"),
    ],
)
def test_training_refuses(args, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, printed = errors_of(train.main, args, capsys, monkeypatch)
    assert code == 2
    assert message in printed
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--num-beams", "0"], "decoding.num_beams=0: must be at least 1"),
        (["--do-sample", "True", "--temperature", "0"], "decoding.temperature=0.0: must be more than 0"),
        (["--top-p", "1.5"], "decoding.top_p=1.5: must be more than 0 and at most 1"),
        (["--bad-words", "dog", ""], "must not hold an empty word"),
        (["--num-beams", "many"], "--num-beams"),
        ([], "not a run directory"),
    ],
)
def test_captioning_refuses(args, message, tmp_path, capsys, monkeypatch):
    code, printed = errors_of(caption.main, [tmp_path, "picture.png", *args], capsys, monkeypatch)
    assert code == 2
    assert message in printed


def test_help_lists_every_field_with_its_meaning_and_default(capsys, monkeypatch):
    code, printed = errors_of(train.main, ["--help"], capsys, monkeypatch)
    assert code == 0
    for name in (
        "--config", "--workdir", "--training.steps", "--training.validate-every", "--training.checkpoint-every",
        "--training.batch-size", "--training.learning-rate", "--data.root", "--decoding.num-beams",
    ):  # fmt: skip
        assert name in printed
    assert printed.count("(default:") > 60


def test_a_directory_that_is_no_run_is_left_alone(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.txt").write_text("precious")
    code, printed = errors_of(train.main, ["--workdir", tmp_path], capsys, monkeypatch)
    assert code == 2
    assert "exists and is no run directory" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("name", ["evaluate", "caption"])
def test_commands_say_what_is_no_run_directory(name, tmp_path, capsys, monkeypatch):
    module = __import__(f"dualcap_jax.{name}", fromlist=["main"])
    args = [tmp_path, *(["picture.png"] if name == "caption" else [])]
    code, printed = errors_of(module.main, args, capsys, monkeypatch)
    assert code == 2
    assert f"{tmp_path}: not a run directory" in printed


def test_configs_survive_json_and_name_what_is_wrong_in_it(tmp_path):
    config, path = ExperimentConfig(), tmp_path / "config.json"
    save_json(config, path)
    assert load_json(path) == config
    values = json.loads(path.read_text())
    values["training"]["batch_size"] = 0
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="training.batch_size=0"):
        load_json(path)
    values["training"]["speed"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="TrainingConfig has no field speed"):
        load_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no get_config"),
        ("def get_config(): return 3", "returned 3, not an ExperimentConfig"),
        ("import nothing_of_this_name", "ModuleNotFoundError"),
    ],
)
def test_an_experiment_file_that_is_none_says_why(tmp_path, text, message):
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_experiment(tmp_path / "file.py")
