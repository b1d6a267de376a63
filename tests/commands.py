"""The commands, run as a user runs them, on a network and a set that take seconds."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]

HANGS = 600
"""Seconds after which something counts as hanging, however busy the machine may be."""

NETWORK = (
    "--model.encoder.width 0.25 --model.encoder.depth 0.2 --model.encoder.num-classes 16 --model.language.width 16 "
    "--model.language.layers 1 --model.language.heads 2 --model.merger.hidden 8 8 --data.image-size 32"
).split()
SCENES = "--data.scenes.train 48 --data.scenes.validation 6 --data.scenes.test 5".split()
STEPS = (
    "--training.steps 12 --training.batch-size 8 --training.validate-every 5 --training.checkpoint-every 4 "
    "--training.log-every 2 --training.warmup-steps 2 --decoding.num-beams 2 --decoding.batch-size 4"
).split()
TINY = [*NETWORK, *SCENES, *STEPS]


def command(name: str, *args) -> list[str]:
    return [sys.executable, "-m", f"dualcap_jax.{name}", *map(str, args)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def run(name: str, *args, cwd=None, code: int = 0) -> subprocess.CompletedProcess:
    """Run a command; its exit code must be `code`, and it must not show a traceback."""
    done = subprocess.run(
        command(name, *args), capture_output=True, text=True, cwd=cwd, env=environment(), timeout=HANGS
    )
    assert done.returncode == code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, done.stderr
    return done


def wait_for(condition: Callable[[], bool], process: subprocess.Popen | None = None) -> None:
    """Return once a condition holds, for which a process, if there is one, must go on."""
    ends = time.monotonic() + HANGS
    while not condition():
        assert time.monotonic() < ends
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.02)
