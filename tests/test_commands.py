"""All commands under one name, what a run is, and how fast and how quietly a command begins."""

import json
import subprocess
import sys
from importlib.metadata import version

import pytest

from dualcap_jax import __main__ as one_name
from dualcap_jax import caption, info

from .commands import ROOT, command, environment
from .test_command_errors import errors_of


def dualcap(*args, **settings) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "dualcap_jax", *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, env={**environment(), **settings}, cwd=ROOT)


def test_one_name_lists_its_commands_and_passes_on_what_they_are_given(finished):
    listed = dualcap("--help")
    assert listed.returncode == 0
    for name in one_name.COMMANDS:
        assert f"  {name} " in listed.stdout
    assert dualcap("--version").stdout.strip() == version("dualcap-jax")
    done = dualcap("info", finished[0], "--json", "True")
    assert json.loads(done.stdout)["directory"] == str(finished[0])
    helped = dualcap("info", "--help").stdout
    assert helped.startswith("usage: dualcap info ")
    assert "--no-compilation-cache" in helped


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["capton"], "error: capton: no command; did you mean caption?"),
        (["xyz"], "error: xyz: no command: train, evaluate"),
        (["--completion", "fish"], "error: --completion needs one of bash, zsh, tcsh"),
        (["info", "nowhere"], "error: nowhere: not a run directory (no config.json in it)"),
    ],
)
def test_a_mistake_is_one_line(args, told):
    done = dualcap(*args)
    assert done.returncode == 2
    assert done.stderr.startswith(told)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_shell_completes_commands_and_options():
    script = dualcap("--completion", "bash").stdout
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "complete" in script
    for word in ("caption", "train-language", "--decoding.num-beams", "--sidecar"):
        assert word in script


def test_info_tells_parts_scores_and_what_comes_next(finished, capsys):
    assert info.main([str(finished[0]), "--json", "True"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["parts"]) == {"encoder", "language", "merger"}
    assert all(part["parameters"] > 0 for part in found["parts"].values())
    assert found["checkpoints"]["latest"] == 12
    assert "BLEU-4" in found["scores"]["test-beam2"]
    assert found["bytes"] > 10_000
    assert info.main([str(finished[0])]) == 0
    printed = capsys.readouterr().out
    for command_line in found["commands"]:
        assert f"  {command_line}" in printed
        assert command_line.split()[0] == "dualcap"
        assert command_line.split()[1] in one_name.COMMANDS


def test_help_needs_neither_torch_nor_checkpoints_nor_the_input_pipeline():
    heavy = ("torch", "orbax", "grain", "matplotlib", "transformers", "tensorflow", "sacrebleu")
    for module in ("train", "evaluate", "caption", "prepare", "info"):
        code = f"import sys, dualcap_jax.{module}; print(sorted(set(sys.modules) & {set(heavy)}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
        assert done.stdout.strip() == "[]", (module, done.stdout, done.stderr)


def test_what_is_compiled_is_kept_for_the_next_start_unless_that_is_not_wanted(finished, tmp_path):
    line = command("caption", finished[0], ROOT / "docs" / "caption.png", "--num-beams", "1")
    settings = {name: value for name, value in environment().items() if not name.startswith("JAX_")}
    settings["XDG_CACHE_HOME"] = str(tmp_path)
    kept = tmp_path / "dualcap_jax"
    first = subprocess.run([*line, "--no-compilation-cache"], env=settings, capture_output=True, text=True, check=True)
    assert not kept.exists()
    for _ in range(2):
        again = subprocess.run(line, env=settings, capture_output=True, text=True, check=True)
        assert again.stdout == first.stdout
    assert any(kept.iterdir())


def test_an_option_for_compilations_is_not_taken_for_another(finished, capsys, monkeypatch):
    code, printed = errors_of(caption.main, [finished[0], "nowhere.png", "--no-compilation"], capsys, monkeypatch)
    assert code == 2
    assert "--no-compilation: there is no such option" in printed
