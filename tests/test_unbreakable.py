"""Training that is killed, ended, deprived of its disk or robbed of its checkpoint ends as if nothing had happened."""

import itertools
import json
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Thread
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dualcap_jax import cli, train, trainer
from dualcap_jax.training import checkpoints
from dualcap_jax.training.restoring import steps_in

from .commands import NETWORK, SCENES, wait_for

STEPS = 12
SETTINGS = [
    *NETWORK, *SCENES,
    *f"--training.steps {STEPS} --training.batch-size 8 --training.validate-every 5 --training.checkpoint-every 2 "
    "--training.log-every 1 --training.warmup-steps 2 --training.freeze encoder --model.language.dropout 0.1".split(),
]  # fmt: skip

warm = multiprocessing.get_context("forkserver")
warm.set_forkserver_preload([__name__])


def train_here(arguments: list[str], told: Path, before: Callable[..., None] | None, *given: Any) -> None:
    """The command, but for the report at its end, in a process that has imported all it needs.

    Args:
        arguments: of the command.
        told: takes what it prints.
        before: is called first, such as to arrange for a fault.
        given: to `before`.
    """
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = ["train", *arguments]
    trainer.curves_figure = lambda *_: sys.exit(0)
    if before:
        before(*given)
    cli.run(train.main)


class Trainings:
    """Starts trainings; none outlives the test."""

    def __init__(self, folder: Path):
        self.folder, self.started = folder, list[BaseProcess]()

    def told(self, workdir: Path) -> str:
        return (self.folder / f"{workdir.name}.txt").read_text()

    def start(self, workdir: Path, *settings: str, before: Callable | None = None, given: tuple = ()) -> BaseProcess:
        arguments = ["--workdir", str(workdir), *([] if (workdir / "config.json").exists() else SETTINGS), *settings]
        told = self.folder / f"{workdir.name}.txt"
        process = warm.Process(target=train_here, args=(arguments, told, before, *given))
        process.start()
        self.started.append(process)
        return process

    def code(self, workdir: Path, *settings: str, before: Callable | None = None, given: tuple = ()) -> int:
        process = self.start(workdir, *settings, before=before, given=given)
        process.join(300)
        return process.exitcode


@pytest.fixture
def trainings(tmp_path) -> Iterator[Trainings]:
    trainings = Trainings(tmp_path)
    yield trainings
    for process in trainings.started:
        process.kill()


@dataclass(frozen=True)
class Whole:
    """What a training without a fault leaves, and the seconds that it takes."""

    workdir: Path
    found: dict[str, Any]
    seconds: float


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Whole:
    folder = tmp_path_factory.mktemp("runs")
    trainings, began = Trainings(folder), time.monotonic()
    assert trainings.code(folder / "whole") == 0, trainings.told(folder / "whole")
    return Whole(folder / "whole", left(folder / "whole"), time.monotonic() - began)


def left(workdir: Path) -> dict[str, Any]:
    """All that a training leaves: both checkpoints' arrays, place in the data and scores; rows but for their rate."""
    found: dict[str, Any] = {}
    for which, step in ((which, steps_in(workdir / "checkpoints" / which)[-1]) for which in ("latest", "best")):
        folder = workdir / "checkpoints" / which / str(step)
        for item in sorted(path.name for path in folder.iterdir() if path.is_dir()):
            name = f"{which} {item} {step}"
            if item in ("model", "optimizer"):
                with ocp.StandardCheckpointer() as reader:
                    leaves = jax.tree_util.tree_leaves_with_path(reader.restore(folder / item))
                found |= {f"{name} {path}": np.asarray(leaf).tobytes() for path, leaf in leaves}
            else:
                found[name] = [path.read_bytes() for path in sorted(folder.glob(f"{item}/[mp]*"))]
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("images_per_second", None)
        found[f"{row['split']} {row['step']}"] = row
    return found


def assert_same(workdir: Path, whole: Whole) -> None:
    found = left(workdir)
    assert list(found) == list(whole.found)
    assert [name for name in found if found[name] != whole.found[name]] == []


def being_written(workdir: Path) -> list[Path]:
    return list((workdir / "checkpoints").glob("*/*-tmp"))


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def wait_for_a_write(process: BaseProcess, workdir: Path, rows: int) -> None:
    """Wait until a checkpoint is being written, when so many bytes of rows have come before it; or for the end."""
    log = workdir / "metrics.jsonl"
    begun = size(log)
    wait_for(lambda: (size(log) > begun + rows and being_written(workdir)) or not process.is_alive())


@pytest.mark.slow
def test_a_training_killed_at_twenty_moments_ends_as_one_that_was_not(trainings, whole, tmp_path):
    drawn, kills, inside, runs = random.Random(18), 0, 0, 0
    while kills < 20:
        workdir, code, runs = tmp_path / f"run{runs}", None, runs + 1
        while code != 0:
            began, process = time.time(), trainings.start(workdir)
            if kills % 2:
                wait_for_a_write(process, workdir, rows=drawn.randrange(200, 1500))
                time.sleep(drawn.uniform(0, 0.03))
            elif kills < 20:
                process.join(drawn.uniform(0, whole.seconds))
            if kills < 20:
                process.kill()
            process.join(300)
            code = process.exitcode
            assert code in (0, -signal.SIGKILL), trainings.told(workdir)
            kills += code != 0
            inside += code != 0 and any(part.stat().st_mtime > began for part in being_written(workdir))
        assert_same(workdir, whole)
    print(f"killed {kills} times, {inside} of them inside a write; {runs} runs went on to their end")
    assert inside >= 5


def at(faults: dict[int, Callable[[], Any]]) -> None:
    """In the process that trains: let something happen inside the steps of these numbers."""
    loop = trainer.train

    def training(state, step, evaluate, batches, run):
        numbers = itertools.count(run.checkpoints.latest_step or 0)

        def stepping(state, batch):
            if (number := next(numbers) + 1) == min(faults):
                run.checkpoints.wait()  # those before are whole
            faults.get(number, int)()
            return step(state, batch)

        return loop(state, stepping, evaluate, batches, run)

    trainer.train = training


def end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def end_inside(where: str) -> None:
    if where == "step":
        at({5: end})
    elif where == "validation":
        validation = trainer.make_evaluate

        def ending(*settings):
            evaluate = validation(*settings)
            return lambda variables: (end(), evaluate(variables))[1]

        trainer.make_evaluate = ending
    else:
        save = checkpoints.Checkpoints.save

        def while_saving(self, *given):
            def watch() -> None:
                wait_for(lambda: any((self._folder / "latest").glob("*-tmp")))
                end()

            Thread(target=watch).start()
            save(self, *given)

        checkpoints.Checkpoints.save = while_saving


@pytest.mark.slow
@pytest.mark.parametrize("where", ["step", "validation", "save"])
def test_a_training_that_is_ended_says_so_saves_and_goes_on(where, trainings, whole, tmp_path):
    workdir = tmp_path / "run"
    assert trainings.code(workdir, before=end_inside, given=(where,)) == 128 + signal.SIGTERM
    noted, last = (line for line in trainings.told(workdir).splitlines() if "SIGTERM" in line)
    assert noted == "SIGTERM noted: leaving after this step, once all is saved; once more leaves at once"
    step = steps_in(workdir / "checkpoints" / "latest")[-1]
    assert last == f"SIGTERM: saved step {step} of {STEPS}; the same command resumes it"
    assert not being_written(workdir)
    if where != "save":
        assert step == 5
    assert trainings.code(workdir) == 0
    assert_same(workdir, whole)


def no_room(largest: int = 100_000) -> None:
    """Files of checkpoints can't be written, those of rows can."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def full(step: int, until: int) -> None:
    at({step: no_room, until: partial(no_room, resource.RLIM_INFINITY)})


def warnings_in(told: str) -> list[str]:
    return [line for line in told.splitlines() if line.startswith(("warning: ", "error: "))]


@pytest.mark.slow
def test_a_training_goes_on_without_a_disk_where_it_is_told_to(trainings, whole, tmp_path):
    workdir = tmp_path / "run"
    assert trainings.code(workdir, "--on-save-error", "go_on", before=full, given=(5, 9)) == 0
    told = warnings_in(trainings.told(workdir))
    assert told
    for line in told:
        assert line.startswith(f"warning: {workdir}: a checkpoint can't be written (")
        assert line.endswith("and that of step 4 stands; training goes on, and tries again")
    assert_same(workdir, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "step", "stands"), [([], 5, 4), (["--on-save-error", "go_on"], 11, 10)])
def test_a_training_stops_without_a_disk_and_at_its_last_step_always(
    settings, step, stands, trainings, whole, tmp_path
):
    workdir = tmp_path / "run"
    assert trainings.code(workdir, *settings, before=full, given=(step, 100)) == 2
    *warned, told = warnings_in(trainings.told(workdir))
    assert all(line.startswith("warning: ") for line in warned)
    assert bool(warned) == bool(settings)
    assert told.startswith(f"error: {workdir}: a checkpoint can't be written (")
    assert f"that of step {stands} stands; make room, and the same command goes on from there" in told
    assert steps_in(workdir / "checkpoints" / "latest")[-1] == stands
    assert trainings.code(workdir) == 0
    assert_same(workdir, whole)


def fill(folder: Path, step: int, until: int) -> None:
    def write() -> None:
        with suppress(OSError), (folder / "filler").open("wb", 0) as file:
            while file.write(bytes(1 << 12)):
                pass

    at({step: write, until: (folder / "filler").unlink})


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount a disk here; the tests above take the room away by a limit")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [[], ["--on-save-error", "go_on"]])
def test_a_training_whose_disk_is_full_loses_nothing(settings, trainings, whole, small_disk):
    workdir = small_disk / "run"
    code = trainings.code(workdir, *settings, before=fill, given=(small_disk, 5, 9))
    told = warnings_in(trainings.told(workdir))
    assert any("No space left on device" in line for line in told)
    if settings:
        assert code == 0
        assert all(line.startswith("warning: ") for line in told)
    else:
        assert code == 2
        assert told[-1].startswith("error: ")
        assert steps_in(workdir / "checkpoints" / "latest") == [2, 4]
        (small_disk / "filler").unlink()
        assert trainings.code(workdir) == 0
    assert_same(workdir, whole)


def poison(step: int) -> None:
    loop = trainer.train

    def training(state, stepping, evaluate, batches, run):
        numbers = itertools.count(1)

        def poisoned(state, batch):
            if next(numbers) == step:
                state = {**state, "model": jax.tree.map(lambda leaf: leaf * float("nan"), state["model"])}
            return stepping(state, batch)

        return loop(state, poisoned, evaluate, batches, run)

    trainer.train = training


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_there_and_the_last_good_checkpoint_stands(trainings, whole, tmp_path):
    workdir = tmp_path / "run"
    assert trainings.code(workdir, before=poison, given=(8,)) == 1
    (told,) = warnings_in(trainings.told(workdir))
    assert re.match(r"error: step 8: loss nan, gradient norm nan, learning rate 0\.00\d+: not finite\. ", told)
    assert "The last checkpoint is of step 6;" in told
    assert steps_in(workdir / "checkpoints" / "latest") == [4, 6]
    assert max(row["step"] for row in left(workdir).values() if isinstance(row, dict)) == 7
    assert trainings.code(workdir) == 0  # what poisoned it is gone
    assert_same(workdir, whole)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "pattern"),
    [(cut, "optimizer/ocdbt.process_0/d/*"), (Path.unlink, "data/process*"), (empty, "model/_METADATA")],
)
def test_a_training_whose_latest_checkpoint_is_broken_goes_on_from_the_one_before(
    damage, pattern, trainings, whole, tmp_path
):
    workdir = Path(shutil.copytree(whole.workdir, tmp_path / "run"))
    latest = workdir / "checkpoints" / "latest"
    assert steps_in(latest) == [STEPS - 2, STEPS]
    damage(max(latest.glob(f"{STEPS}/{pattern}"), key=size))
    assert trainings.code(workdir) == 0
    (told,) = warnings_in(trainings.told(workdir))
    assert told.startswith(f"warning: {latest / str(STEPS)}: the checkpoint can't be read (")
    assert f"; that of step {STEPS - 2} is used in its place" in told
    assert (latest / f"{STEPS}.broken").is_dir()
    assert_same(workdir, whole)
