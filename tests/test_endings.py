"""Ways in which commands and scripts are ended: in a line, with a code of its own, with what was done saved."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from PIL import Image

from .commands import HANGS, ROOT, TINY, command, environment, wait_for

ENDLESS = [*TINY, "--training.steps", "100000", "--training.checkpoint-every", "100000", "--training.log-every", "1"]
COMPILING = "compiling encoder and search for this device\n"
"""Told where it takes long."""

HEED = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Starts a command as a terminal does, even where these tests run under nohup."""


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen]]:
    """Begins a process, with both streams to be read; none outlives the test."""
    with ExitStack() as stack:

        def begin(arguments: list, **settings: str) -> subprocess.Popen:
            streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            heeding = [sys.executable, "-c", HEED, *map(str, arguments)]
            process = subprocess.Popen(heeding, **streams, env={**environment(), **settings})
            stack.callback(process.kill)
            return process

        yield begin


def until(stream, text: str) -> str:
    """Read a stream up to a line that holds the text; returns all that was read."""
    read = ""
    for line in stream:
        read += line
        if text in line:
            return read
    pytest.fail(f"{text!r} never came:\n{read}")


def steps(workdir: Path) -> int:
    log = workdir / "metrics.jsonl"
    return log.read_text().count('"train"') if log.exists() else 0


def saved(workdir: Path) -> list[str]:
    return [path.name for path in (workdir / "checkpoints" / "latest").glob("[0-9]*")]


@pytest.fixture
def image(tmp_path) -> Path:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    return tmp_path / "a.png"


@pytest.mark.parametrize(
    "arguments",
    [["-m", "dualcap_jax.train"], [ROOT / "scripts" / "describe_data.py"]],
    ids=["command", "script"],
)
def test_an_interrupt_while_modules_are_imported_is_a_line(start, arguments):
    process = start([sys.executable, "-X", "importtime", *arguments, "--help"])
    until(process.stderr, " numpy\n")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert [line for line in errors.splitlines() if not line.startswith("import time:")] == ["interrupted"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_training_compiles_its_first_step_is_answered_in_a_line(start, tmp_path, number):
    process = start(command("train", "--workdir", tmp_path / "run", *TINY), JAX_ENABLE_COMPILATION_CACHE="false")
    until(process.stdout, "compiling the first step")
    process.send_signal(number)
    _, errors = process.communicate(timeout=HANGS)
    assert (process.returncode, errors) == (128 + number, f"interrupted ({number.name})\n")


@pytest.mark.parametrize(("name", "compiled"), [("caption", "jit(_caption)"), ("evaluate", "jit(encode)")])
def test_an_interrupt_while_a_search_is_compiled_is_answered_in_a_line(start, finished, image, name, compiled):
    arguments = [finished[0], image] if name == "caption" else [finished[0]]
    process = start(command(name, *arguments), JAX_LOG_COMPILES="1", JAX_ENABLE_COMPILATION_CACHE="false")
    until(process.stderr, f"Finished jaxpr to MLIR module conversion {compiled}")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 130
    assert "interrupted (SIGINT)" in errors.splitlines()
    assert "Traceback" not in errors


@pytest.mark.slow
def test_a_training_whose_terminal_is_closed_saves_its_last_step(start, tmp_path):
    process = start(command("train", "--workdir", tmp_path / "run", *ENDLESS))
    wait_for(lambda: steps(tmp_path / "run") > 0)
    process.send_signal(signal.SIGHUP)
    _, errors = process.communicate(timeout=HANGS)
    assert process.returncode == 128 + signal.SIGHUP
    noted, last = errors.splitlines()
    assert noted.startswith("SIGHUP noted: leaving after this step, once all is saved")
    (step,) = saved(tmp_path / "run")
    assert last == f"SIGHUP: saved step {step} of 100000; the same command resumes it"


@pytest.mark.slow
def test_a_training_whose_reader_is_gone_saves_its_last_step(start, tmp_path):
    process = start(command("train", "--workdir", tmp_path / "run", *ENDLESS))
    until(process.stdout, "compiling the first step")
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait(60) == 128 + signal.SIGPIPE
    (step,) = saved(tmp_path / "run")
    assert errors == f"SIGPIPE: saved step {step} of 100000; the same command resumes it\n"


def test_captions_whose_reader_is_gone_end_without_a_word(finished, image):
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command("caption", finished[0], image), stdout=writing, stderr=subprocess.PIPE, text=True, env=environment()
    )
    os.close(writing)
    assert (done.returncode, done.stderr.removeprefix(COMPILING)) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "<&- 2>&-"])
def test_a_stream_that_is_closed_is_no_fault(finished, image, closed):
    names = [image, image.with_name("no.png")]
    shell = ["sh", "-c", f'exec "$@" {closed}', "sh", *command("caption", finished[0], *names)]
    done = subprocess.run(shell, capture_output=True, text=True, env=environment())
    assert done.returncode == 1  # of two images one is not there
    errors = done.stderr.removeprefix(COMPILING)
    told, failed = done.stdout.startswith(f"{image}\t"), errors.startswith(f"{names[1]}: No such file")
    assert (told, failed) == ((False, True) if closed == ">&-" else (True, False))
    assert len((done.stdout + errors).splitlines()) == 1


def shared_by(processes: Iterable[str]) -> set[str]:
    """Names of the shared memory that processes have mapped."""
    maps = []
    for process in processes:
        with suppress(OSError):
            maps.append(Path(f"/proc/{process}/maps").read_text())
    return set(re.findall(r"/dev/shm/(\S+)", "".join(maps)))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads Linux's /proc")
def test_a_killed_training_leaves_no_worker_and_no_shared_memory(start, tmp_path):
    process = start(command("train", "--workdir", tmp_path / "run", *ENDLESS, "--data.workers", "2"))
    wait_for(lambda: steps(tmp_path / "run") > 0)
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    children = [child for thread in threads for child in (thread / "children").read_text().split()]
    assert len(children) >= 2
    names: set[str] = set()
    for _ in range(100):  # a batch's memory is there for a moment only
        names |= shared_by([str(process.pid), *children])
        time.sleep(0.01)
    assert names
    process.kill()
    process.communicate()
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
    wait_for(lambda: not names & set(os.listdir("/dev/shm")))
