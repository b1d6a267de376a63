"""scripts/ablate.py: variations of an experiment, trained with several seeds and tabulated."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from .commands import environment

SCRIPT = Path(__file__).parents[1] / "scripts" / "ablate.py"
EXPERIMENT = """
from dataclasses import replace
from dualcap_jax.config import load_json

def get_config():
    config = load_json({path!r})
    training = replace(config.training, steps=4, validate_every=4, checkpoint_every=4)
    return replace(config, training=training)
"""


def ablate(*arguments, code=0) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.slow
def test_variations_are_trained_once_and_tabulated_over_seeds(finished, tmp_path):
    (tmp_path / "tiny.py").write_text(EXPERIMENT.format(path=str(finished[0] / "config.json")))
    arguments = ["--config", tmp_path / "tiny.py", "--seeds", "2", "--workdir", tmp_path / "out", "--vary"]
    arguments += ["norm=layer training.batch_size=4"]
    printed = ablate(*arguments).stdout
    names = ["base", "norm=layer training.batch_size=4"]
    runs = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert runs == sorted(f"{name.replace(' ', '-')}-seed{seed}" for name in names for seed in (0, 1))
    config = json.loads((tmp_path / "out" / "norm=layer-training.batch_size=4-seed1" / "config.json").read_text())
    assert [config["training"][key] for key in ("batch_size", "seed")] == [4, 1]
    assert config["model"]["merger"]["norm"] == "layer"

    results = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert list(results) == names
    text = (tmp_path / "out" / "ablation.md").read_text()
    assert text in printed
    losses = {name: np.array([run["loss"] for run in results[name]]) for name in names}
    # Student's t with one degree of freedom
    mean, half = losses["base"].mean(), 12.706 * losses["base"].std(ddof=1) / 2**0.5
    assert f"| base | {mean:.3f} ± {half:.3f} |" in text
    change = losses[names[1]] - losses["base"]
    assert f"({change.mean():+.3f} ± {12.706 * change.std(ddof=1) / 2**0.5:.3f})" in text
    assert "wholly right, %" in text

    again = ablate(*arguments)
    assert "+ " not in again.stdout  # nothing is trained again
    assert text in again.stdout


def test_one_seed_has_no_interval():
    from scripts.ablate import table

    runs = {"base": [{"loss": 0.5, "bleu_4": 50.0, "coco_cider_d": 300.0, "right": None}]}
    runs["norm=layer"] = [{"loss": 0.625, "bleu_4": 49.0, "coco_cider_d": 310.0, "right": None}]
    assert table(runs).splitlines()[2:] == [
        "| base | 0.500 | 50.0 | 300.0 |",
        "| norm=layer | 0.625 (+0.125) | 49.0 (-1.0) | 310.0 (+10.0) |",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "speed=3"], "--vary speed: the experiment has no such field"),
        (
            ["--vary", "learning_rat=3"],
            "--vary learning_rat: the experiment has no such field; did you mean learning_rate?",
        ),
        (["--sead", "3"], "--sead: there is no such option; did you mean --seeds?"),
        (["--vary", "batch_size=3"], "may be training.batch_size, decoding.batch_size; give more of the name"),
        (["--vary", "norm"], "give NAME=VALUE, NAME=A,B, or several NAME=VALUE in quotes"),
        (["--vary", "norm=layer", "--config", "nowhere.py"], "--config nowhere.py: no such file"),
        (["--vary", "norm=layer", "--seeds", "0"], "--seeds 0: must be at least 1"),
        ([], "--vary"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(arguments, message, tmp_path):
    assert message in ablate(*arguments, "--workdir", tmp_path / "out", code=2).stderr
    assert not (tmp_path / "out").exists()
