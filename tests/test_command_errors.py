"""Mistakes on the command line: each names the thing, the value and the mend, before any heavy work."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from dualcap_jax import caption, cli, evaluate, train, trainer
from dualcap_jax.cli import run as run_main
from dualcap_jax.config import ExperimentConfig, load_experiment, load_json, save_json
from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.errors import ConfigError
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.models.config import ModelConfig
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.models.language_models.gpt2 import GPT2Config
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.training.config import TrainingConfig


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
        (["--learning-rat", "3"], "--learning-rat: there is no such option; did you mean --training.learning-rate?"),
        (["--batch_size", "3"], "--batch_size: may be --decoding.batch-size, --training.batch-size; give more"),
        (["--batch-siz", "3"], "did you mean --decoding.batch-size or --training.batch-size?"),
        (["--steps", "0"], "training.steps=0: must be at least 1"),
        (["--workdir"], "--workdir: expected one argument"),
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
        (["--num-beam", "5"], "--num-beam: there is no such option; did you mean --num-beams?"),
        (["--training.steps", "5"], "--training.steps: there is no such option"),
        (["--num-beams"], "--num-beams: expected one argument"),
        (["--decoding.num_beams", "0"], "decoding.num_beams=0: must be at least 1"),
    ],
)
def test_captioning_refuses(args, message, tmp_path, capsys, monkeypatch):
    save_json(ExperimentConfig(), tmp_path / "config.json")
    code, printed = errors_of(caption.main, [tmp_path, "picture.png", *args], capsys, monkeypatch)
    assert code == 2
    assert message in printed


@pytest.mark.parametrize(
    "args",
    [["--num-return-sequences", "8"], ["--decoding.min_length", "31"], ["--diversity-penalty=0.25"], ["--seed", "1"]],
)
def test_options_are_checked_against_the_runs_own_settings(args, tmp_path, capsys, monkeypatch):
    decoding = DecodingConfig(num_beams=10, max_length=32, num_beam_groups=5, diversity_penalty=0.5)
    save_json(ExperimentConfig(decoding=decoding), tmp_path / "config.json")
    code, printed = errors_of(caption.main, [*args, tmp_path, "image.png"], capsys, monkeypatch)
    assert code == 2
    assert "has no best checkpoint" in printed  # which is looked for once all options are right


def test_captioning_without_an_image_is_no_success(tmp_path, capsys, monkeypatch):
    save_json(ExperimentConfig(), tmp_path / "config.json")
    code, printed = errors_of(caption.main, [tmp_path], capsys, monkeypatch)
    assert code == 2
    assert "no image given" in printed


@dataclass
class Options:
    name: tyro.conf.Positional[str] = ""
    words: tuple[str, ...] = ()
    section: Annotated[DecodingConfig, tyro.conf.arg(name="")] = field(default_factory=DecodingConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--num-beams", "3", "RUN"], {"num-beams": "3"}),
        (["--section.num_beams=3", "RUN"], {"num-beams": "3"}),
        (["RUN", "--steps", "3"], {"training.steps": "3"}),
        (["--words", "a", "b", "--training.steps", "3", "RUN"], {"training.steps": "3"}),
    ],
)
def test_an_option_is_its_fields_name_or_the_end_of_it(args, named):
    found, others = cli.first(Options, args)
    assert {name: value for name, value in found.items() if value} == named
    assert others == ["RUN"]
    assert cli.parse(Options, args, "test", "").name == "RUN"


def test_a_misspelt_options_value_is_not_taken_for_the_run():
    assert cli.first(Options, ["--num-beam", "3", "RUN"])[1] == []


def test_scripts_take_options_as_the_commands_do(capsys):
    parser = cli.ArgumentParser("data")
    parser.add_argument("--image-size", type=int)
    for option in ("--image-size", "--image_size", "--data.image_size", "--data.image-size"):
        assert parser.parse_args([option, "3"]).image_size == parser.parse_args([f"{option}=3"]).image_size == 3
    with pytest.raises(SystemExit) as stopped:
        parser.parse_args(["--image-siz", "3"])
    assert stopped.value.code == 2
    assert "--image-siz: there is no such option; did you mean --image-size?" in capsys.readouterr().err


def test_warming_up_for_longer_than_all_steps_is_told_with_the_mend(tmp_path, capsys):
    args = ["--training.steps", "50", "--workdir", str(tmp_path / "run")]
    train.parse(args)
    told = capsys.readouterr().err
    assert "training.warmup_steps=100 is more than training.steps=50" in told
    train.parse([*args, *re.search("--training.warmup-steps 5", told)[0].split()])
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("trained_on", "asked_for"), [("photos", ""), ("", "photos")])
def test_a_run_on_images_does_not_go_on_with_drawn_scenes(trained_on, asked_for, tmp_path):
    save_json(ExperimentConfig(data=DataConfig(root=trained_on)), tmp_path / "config.json")
    with pytest.raises(ConfigError, match=f"data.root is '{trained_on}', asked for '{asked_for}'"):
        train.parse(["--workdir", str(tmp_path), "--data.root", asked_for])


def test_memory_that_does_not_suffice_names_what_may_still_change(tmp_path, capsys):
    config = ExperimentConfig()
    *remat, anew = trainer.less_memory(config)
    assert remat == [f"set --model.{part}.remat blocks (now none)" for part in ("encoder", "language")]
    for part in ("--training.batch-size (now 64)", "--data.image-size (now 64)", "--training.accumulate (now 1)"):
        assert part in anew
    save_json(config, tmp_path / "config.json")
    options = ["--model.encoder.remat", "blocks", "--model.language.remat", "blocks"]
    changed, _, resumed = train.parse(["--workdir", str(tmp_path), *options])
    assert resumed
    assert len(trainer.less_memory(changed)) == 1
    with pytest.raises(cli.OutOfMemory, match="out of memory: one; or two"), cli.naming_memory("one", "two"):
        raise MemoryError


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
        (b"[]", "it is [], not an object"),
        (b"3", "it is 3, not an object"),
        (b"{}", "model is None, not an object"),
        (b'{"architectures": ["GPT2"]}', "model is None, not an object"),
        (b'{"version": 2, "model": {"encoder": []}}', "model.encoder is [], not an object"),
        (b'{"version": 2, "model": {"encoder": {}}}', "model.encoder.kind=None is not known here"),
        (b'{"version": 2, "training": null}', "training is None, not an object"),
        (b'{"version": 2, "training": {"step": 3}}', "TrainingConfig has no field step; did you mean steps?"),
        (b'{"version": 2, "training": {"steps": "3"}}', "training.steps='3': must be a whole number; did you mean 3?"),
        (b'{"version": 2, "data": {"root": 5}}', "data.root=5: must be text"),
        (b'{"version": [2]}', "is of version [2]"),
        (b'{"version": 2, "init_from": "\xff"}', "can't decode byte 0xff"),
        (b"[" * 100_000, "maximum recursion depth"),
    ],
)
def test_a_broken_config_is_a_line_with_the_mend(text, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "config.json").write_bytes(text)
    for main, args in ((train.main, ["--workdir"]), (evaluate.main, []), (caption.main, [])):
        code, printed = errors_of(main, [*args, tmp_path], capsys, monkeypatch)
        assert code == 2
        assert f"{tmp_path}/config.json: not a configuration that can be read (mend it, or put back the one" in printed
        assert message in printed


EXPERIMENT = """from dualcap_jax.config import ExperimentConfig
from dualcap_jax.training.config import TrainingConfig
def get_config():
    config = ExperimentConfig(training=TrainingConfig({}))"""


def test_an_experiment_may_import_what_lies_beside_it_when_it_is_asked(tmp_path):
    (tmp_path / "beside.py").write_text("from dualcap_jax.config import ExperimentConfig")
    (tmp_path / "file.py").write_text("def get_config():\n    import beside\n    return beside.ExperimentConfig()")
    assert load_experiment(tmp_path / "file.py") == ExperimentConfig()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainingConfig(steps=True), "training.steps=True: must be a whole number"),
        (lambda: TrainingConfig(learning_rate="1e-3"), "'1e-3': must be a number; did you mean 0.001?"),
        (
            lambda: TrainingConfig(schedule="cosin"),
            "must be 'constant', 'linear' or 'cosine'; did you mean 'cosine'?",
        ),
        (lambda: TrainingConfig(freeze="encoder"), "; did you mean ('encoder',)?"),
        (lambda: TrainingConfig(freeze=("encodr",)), "training.freeze='encodr': must be 'encoder', "),
        (
            lambda: DecodingConfig(bad_words="purple"),
            "decoding.bad_words='purple': must be a tuple, each of it text; did ",
        ),
        (lambda: DecodingConfig(bad_words=("a", 3)), "decoding.bad_words=3: must be text"),
        (lambda: DecodingConfig(early_stopping=1), "decoding.early_stopping=1: must be True, False or 'never'"),
        (lambda: DecodingConfig(do_sample="False"), "must be True or False; did you mean False?"),
        (lambda: DecodingConfig(num_beams=2.0), "decoding.num_beams=2.0: must be a whole number; did you mean 2?"),
        (lambda: DecodingConfig(prompt=None), "decoding.prompt=None: must be text"),
        (lambda: EvaluationConfig(metrics="bleu"), "; did you mean ('bleu',)?"),
        (lambda: EvaluationConfig(lowercase="yes"), "evaluation.lowercase='yes': must be True or False"),
        (lambda: DataConfig(root=None), "data.root=None: must be text"),
        (lambda: DataConfig(resize="64"), "data.resize='64': must be a whole number or None; did you mean 64?"),
        (lambda: DataConfig(scenes={"train": 3}), "data.scenes={'train': 3}: must be of the kind ScenesConfig"),
        (lambda: ScenesConfig(train=3.5), "data.scenes.train=3.5: must be a whole number"),
        (lambda: MergerConfig(hidden=384), "model.merger.hidden=384: must be a tuple, each of it a whole number; did "),
        (lambda: MergerConfig(kind="mlp"), "model.merger.kind='mlp': must be 'skip_mlp'"),
        (
            lambda: EfficientNetConfig(width="0.5"),
            "model.encoder.width='0.5': must be a number or None; did you mean 0.5?",
        ),
        (lambda: GPT2Config(layers="2"), "model.language.layers='2': must be a whole number; did you mean 2?"),
        (lambda: ModelConfig(dtype="float3"), "model.dtype='float3': must be 'float32', 'bfloat16' or 'float16'"),
        (lambda: ModelConfig(encoder=GPT2Config()), "must be of the kind EncoderConfig"),
        (lambda: ExperimentConfig(training=DataConfig()), "must be of the kind TrainingConfig"),
    ],
)
def test_a_field_of_another_type_is_refused_with_what_was_meant(make, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        make()


def test_a_list_is_taken_as_a_tuple_and_a_path_as_text():
    assert DecodingConfig(bad_words=["red"]) == DecodingConfig(bad_words=("red",))
    assert DataConfig(root=Path("a/b")) == DataConfig(root="a/b")
    assert hash(MergerConfig(hidden=[384, 256])) == hash(MergerConfig(hidden=(384, 256)))
    assert TrainingConfig(learning_rate=1) == TrainingConfig(learning_rate=1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "defines no get_config"),
        ("def get_config(): return 3", "returned 3, not an ExperimentConfig"),
        ("import nothing_of_this_name", "line 1: ModuleNotFoundError"),
        ("def get_config(:", "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit('no')", "line 2: SystemExit: no"),
        (EXPERIMENT.format("steps=1e3"), "line 4: training.steps=1000.0: must be a whole number; did you mean 1000?"),
        (EXPERIMENT.format("step=3"), "line 4: TypeError: .*'step'; did you mean steps?"),
        (EXPERIMENT.format("steps='500'"), "line 4: training.steps='500': must be a whole number; did you mean 500?"),
        (EXPERIMENT.format("steps=0"), "line 4: training.steps=0: must be at least 1"),
        (EXPERIMENT.format("") + "\n    config.training.steps = 3", "line 5: FrozenInstanceError.*dataclasses.replace"),
        ("def get_config():\n    import nothing_of_this_name", "line 2: ModuleNotFoundError"),
        ("def get_config(name): pass", "TypeError"),
    ],
)
def test_an_experiment_file_that_is_none_says_why(tmp_path, text, message):
    (tmp_path / "file.py").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_experiment(tmp_path / "file.py")
