"""A run directory that is no longer whole, as each command meets it; the mends that it offers are tried there."""

import errno
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from dualcap_jax import caption, evaluate, train, trainer
from dualcap_jax.training.restoring import steps_in

from .commands import environment
from .test_command_errors import errors_of


@pytest.fixture
def workdir(finished, tmp_path, monkeypatch) -> Path:
    """A copy of a run, in a folder whose name a shell takes apart; and an image in the current one."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 40), "red").save("a.png")
    return Path(shutil.copytree(finished[0], tmp_path / "my runs" / "one"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def damaged(workdir: Path, which: str, damage) -> str:
    """Damage every file of a kind's checkpoints; returns how the message begins that tells it of the newest."""
    directory = workdir / "checkpoints" / which
    for path in filter(Path.is_file, list(directory.rglob("*"))):
        damage(path)
    return f"error: {directory / str(steps_in(directory)[-1])}: the checkpoint can't be read ("


def arguments_of(name: str, workdir: Path) -> list[str]:
    own = {"caption": ["a.png"], "evaluate": ["--metrics", "bleu", "--samples", "0"]}
    return [str(workdir), *own[name]]


MAIN = {"caption": caption.main, "evaluate": evaluate.main}


@pytest.mark.parametrize(
    ("name", "damage"), [("caption", cut), ("caption", empty), ("caption", Path.unlink), ("evaluate", cut)]
)
def test_a_broken_checkpoint_is_named_with_a_command_that_mends_it(name, damage, workdir, capsys, monkeypatch):
    begins = damaged(workdir, "best", damage)
    arguments = arguments_of(name, workdir)
    code, printed = errors_of(MAIN[name], arguments, capsys, monkeypatch)
    assert code == 2
    assert printed.startswith(begins)
    mend = shlex.split(re.search(r"\); (mv .*) lets the latest checkpoint, of step 12, take its place$", printed)[1])
    subprocess.run(mend, check=True)
    assert MAIN[name](arguments) == 0
    capsys.readouterr()

    begins = damaged(workdir, "latest", damage)
    code, printed = errors_of(MAIN[name], arguments, capsys, monkeypatch)
    assert code == 2
    assert printed.startswith(begins)
    assert printed.endswith("the run has no other: bring it back from a copy, or train anew")


@pytest.mark.parametrize("name", ["caption", "evaluate"])
def test_a_broken_latest_checkpoint_names_the_option_for_the_best(name, workdir, capsys, monkeypatch):
    begins = damaged(workdir, "latest", cut)
    arguments = arguments_of(name, workdir)
    code, printed = errors_of(MAIN[name], [*arguments, "--checkpoint", "latest"], capsys, monkeypatch)
    assert code == 2
    assert printed.startswith(begins)
    mend = re.search(r"; (--checkpoint best) takes the best one, of step \d+$", printed)[1].split()
    assert MAIN[name]([*arguments, *mend]) == 0


@pytest.fixture
def stops_at_the_first_step(monkeypatch) -> list[int]:
    """Training that is ended where it begins; holds the steps that it began with."""
    begun = []

    def stop(state, step, evaluate, batches, run):
        with run:
            begun.append(run.start)
            raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "train", stop)
    return begun


def test_a_training_whose_checkpoint_is_broken_names_the_other(workdir, capsys, monkeypatch, stops_at_the_first_step):
    whole = Path(shutil.copytree(workdir, workdir.with_name("two")))
    begins = damaged(workdir, "latest", cut)
    code, printed = errors_of(train.main, ["--workdir", workdir, "--steps", "20"], capsys, monkeypatch)
    assert code == 2
    assert begins in printed
    mend = re.search(r"; (python -m dualcap_jax.train --init-from .*) begins a new run with the best", printed)[1]
    _, printed = errors_of(train.main, shlex.split(mend)[3:], capsys, monkeypatch)
    assert f"weights of {workdir}" in printed or "interrupted" in printed
    assert stops_at_the_first_step == [0]

    begins = damaged(whole, "best", cut)
    code, printed = errors_of(train.main, ["--workdir", whole, "--steps", "20"], capsys, monkeypatch)
    assert code == 2
    assert begins in printed
    subprocess.run(shlex.split(re.search(r"\); (mv .*) lets the latest", printed)[1]), check=True)
    _, printed = errors_of(train.main, ["--workdir", whole, "--steps", "20"], capsys, monkeypatch)
    assert "(resuming)" in printed
    assert stops_at_the_first_step == [0, 12]


def test_a_log_with_a_broken_line_is_told_before_any_work(workdir, capsys, monkeypatch, stops_at_the_first_step):
    log = workdir / "metrics.jsonl"
    first, *rest = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(first + b'{"step": 3, "split": "tr\xffin"}\n' + b"".join(rest))
    before = log.read_bytes()
    resume = ["--workdir", str(workdir), "--steps", "20"]
    for main, arguments in ((train.main, resume), (evaluate.main, arguments_of("evaluate", workdir))):
        code, printed = errors_of(main, arguments, capsys, monkeypatch)
        assert code == 2
        assert f"error: {log}:2: " in printed
        assert printed.endswith("take this line away, or bring the file back from a copy")
        assert log.read_bytes() == before
    log.write_bytes(first + b"".join(rest) + b'{"step": 12, "spl')  # the mend; and a line that a kill cut short
    _, printed = errors_of(train.main, resume, capsys, monkeypatch)
    assert stops_at_the_first_step == [12]
    assert log.read_bytes().splitlines() == [first.rstrip(), *map(bytes.rstrip, rest)]


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """Files can't grow over a size, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_an_evaluation_on_a_full_disk_names_the_file_and_leaves_the_reports_that_stand(workdir, capsys, monkeypatch):
    arguments, folder = arguments_of("evaluate", workdir), workdir / "evaluation"
    assert evaluate.main(arguments) == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with no_room(600):
        code, printed = errors_of(evaluate.main, arguments, capsys, monkeypatch)
    assert code == 2
    assert f"error: [Errno {errno.EFBIG}] {os.strerror(errno.EFBIG)}: '{folder}/validation-beam2." in printed
    assert {path.name: path.read_bytes() for path in folder.iterdir() if "progress" not in path.name} == before
    assert evaluate.main(arguments) == 0


FULL = """
import resource, sys
import jax.numpy as jnp
from dualcap_jax import cli, train, trainer

loop, metrics = trainer.train, {"loss": jnp.float32(1), "finite": jnp.bool_(True), "overflow": jnp.bool_(False)}

def step(state, batch):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))
    return state, metrics

def on_a_full_disk(state, _, evaluate, batches, run):
    return loop(state, step, lambda model: None, batches, run)

trainer.train = on_a_full_disk
cli.run(train.main)
"""


def test_a_training_on_a_full_disk_ends_in_a_line_and_what_it_had_saved_stands(
    workdir, capsys, monkeypatch, stops_at_the_first_step
):
    arguments = ["--workdir", workdir, "--training.steps", "13"]
    done = subprocess.run([sys.executable, "-c", FULL, *arguments], capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"error: {workdir}: a checkpoint can't be written (" in done.stderr
    assert "that of step 12 stands; make room, and the same command goes on from there" in done.stderr
    errors_of(train.main, arguments, capsys, monkeypatch)
    assert stops_at_the_first_step == [12]
