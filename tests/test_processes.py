"""Several processes train and evaluate together as one does."""

import json
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .commands import HANGS, ROOT, TINY, environment, run, wait_for

CONSTANT = [*TINY, "--training.schedule", "constant", "--training.log-every", "1", "--training.checkpoint-every", "3"]
CONSTANT += ["--training.validate-every", "3", "--training.learning-rate", "1e-4"]


def begin(processes: int, command: str, *arguments: object) -> list[subprocess.Popen]:
    """A command as several processes, which find each other over loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    together = ["--distributed.processes", processes, "--distributed.coordinator", f"127.0.0.1:{port}"]
    started = []
    for process in range(processes):
        line = ["-m", f"dualcap_jax.{command}", *arguments, *together, "--distributed.process", process]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen([sys.executable, *map(str, line)], cwd=ROOT, env=environment(), **streams))
    return started


def end(started: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code and streams of each."""
    streams = [process.communicate(timeout=HANGS) for process in started]
    return [(process.returncode, *both) for process, both in zip(started, streams, strict=True)]


def told(found: list[tuple[int, str, str]]) -> str:
    """What each process wrote, readable where pytest shortens values."""
    return "".join(f"\nprocess {number}: {code}\n{streams}" for number, (code, *streams) in enumerate(found))


def rows(workdir: Path, split: str) -> dict[int, dict]:
    every = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {row["step"]: row for row in every if row["split"] == split}


def same_losses(workdir: Path, other: Path, steps: range, split: str = "train") -> None:
    ours, theirs = rows(workdir, split), rows(other, split)
    for step in steps:
        # Adam makes much of what rounding did to small gradients; another batch would differ by some per cent.
        assert ours[step]["loss"] == pytest.approx(theirs[step]["loss"], rel=1e-4), step


@pytest.mark.slow
def test_a_run_goes_from_two_processes_to_four_and_to_one_as_if_it_were_one(tmp_path):
    alone, together = tmp_path / "alone", tmp_path / "together"
    run("train", "--workdir", alone, *CONSTANT, "--training.steps", 9)
    found = end(begin(2, "train", "--workdir", together, *CONSTANT, "--training.steps", 3))
    assert [code for code, *_ in found] == [0, 0], told(found)
    assert "step 3/3" in found[0][1]
    assert "step" not in found[1][1]  # the first alone prints
    same_losses(together, alone, range(1, 4))
    same_losses(together, alone, range(3, 4), "validation")

    report = together / "evaluation" / "test-beam2.json"
    before = json.loads(report.read_text())
    shutil.rmtree(together / "evaluation")
    run("evaluate", together, "--split", "test")
    assert json.loads(report.read_text()) == before  # to the digit

    found = end(begin(4, "train", "--workdir", together, *CONSTANT, "--training.steps", 6))
    assert [code for code, *_ in found] == [0] * 4, told(found)
    run("train", "--workdir", together, *CONSTANT, "--training.steps", 9)
    same_losses(together, alone, range(1, 10))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_ends_the_others_with_a_message(tmp_path, number):
    started = begin(2, "train", "--workdir", tmp_path / "run", *CONSTANT, "--training.steps", 100_000)
    log = tmp_path / "run" / "metrics.jsonl"
    wait_for(lambda: log.exists() and log.read_text().count('"train"') > 3)
    started[1].send_signal(number)
    (first, _, told), (second, _, said) = end(started)
    if number == signal.SIGTERM:  # all end at the same step, which is saved
        assert (first, second) == (143, 143), (told, said)
        assert "SIGTERM: saved step" in told
        assert (tmp_path / "run" / "checkpoints" / "latest").is_dir()
    else:
        assert second == -signal.SIGKILL
        assert first != 0
        assert "error: another process has gone" in told, told
        assert "Traceback" not in told
