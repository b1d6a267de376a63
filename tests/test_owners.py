"""A run directory, and each report in it, is written by one process at a time; who reads meanwhile gets a whole one."""

import os
import shutil
import socket
from datetime import datetime
from pathlib import Path
from threading import Event, Semaphore, Thread

import pytest

from dualcap_jax import Captioner, evaluate, train, trainer
from dualcap_jax.files import LOCK
from dualcap_jax.owners import Owned, owned
from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.run import claimed

from .commands import TINY
from .test_command_errors import errors_of


@pytest.fixture
def workdir(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished[0], tmp_path / "run"))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and LOCK not in path.name}


def told(what: object) -> str:
    """What one is told of the owner, which is this process."""
    return f"error: {what}: is being written by process {os.getpid()} on {socket.gethostname()} since 20"


@pytest.mark.parametrize("begun", [True, False])
def test_a_second_training_in_a_directory_is_refused_and_names_the_first(workdir, tmp_path, capsys, monkeypatch, begun):
    directory = workdir if begun else tmp_path / "new"
    with owned(directory / LOCK, "first"):
        before = contents(directory)
        arguments = ["--workdir", directory, *TINY, *["--training.steps", "30"][: 2 * begun]]
        code, printed = errors_of(train.main, arguments, capsys, monkeypatch)
        assert code == 2
        assert told(directory) in printed
        assert "wait for it to end, or stop it" in printed
        assert contents(directory) == before


def test_a_directory_that_another_training_filled_meanwhile_is_not_begun_anew(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Owned, match="another process just trained there"), claimed(tmp_path, "named"):
        pass


def test_a_second_evaluation_of_a_run_is_refused_but_not_one_with_other_settings(workdir, capsys, monkeypatch):
    arguments = [workdir, "--metrics", "bleu", "--samples", "0"]
    with owned(workdir / "evaluation" / ".validation-beam1.lock", "first"):
        code, printed = errors_of(evaluate.main, [*arguments, "--num-beams", "1"], capsys, monkeypatch)
        assert code == 2
        assert told(workdir / "evaluation" / "validation-beam1.*") in printed
        assert not (workdir / "evaluation" / "validation-beam1.json").exists()
        assert evaluate.main(list(map(str, arguments))) == 0


def test_trainings_without_a_name_that_begin_in_the_same_second_do_not_share_a_directory(tmp_path, monkeypatch):
    class Now(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 1, 2, 3, 4, 5)

    directories = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train, "datetime", Now)
    monkeypatch.setattr(trainer, "_train", lambda config, workdir, *_: directories.append(str(workdir)) or 0)
    for _ in range(2):
        train.main(TINY)
    assert directories == ["runs/20260102-030405-scenes", "runs/20260102-030405-scenes-2"]
    assert all((Path(each) / "tokenizer" / "vocab.json").is_file() for each in directories)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of reads that failed inside orbax
def test_captioning_while_training_replaces_the_best_checkpoint(workdir):
    model, done, turn = Captioner.load(workdir).model, Event(), Semaphore()
    loaded = []

    def improve() -> None:
        checkpoints = Checkpoints(workdir)
        for step in range(100, 200):
            checkpoints.save_best(step, {"model": model}, 1 / step)
            turn.acquire()  # once for each that was read: reading always comes to its end
            if done.is_set():
                break
        checkpoints.close()

    training = Thread(target=improve)
    training.start()
    try:
        for _ in range(8):
            loaded.append(Captioner.load(workdir).step)
            turn.release()
    finally:
        done.set()
        turn.release()
        training.join()
    assert loaded == sorted(loaded)
    assert len(set(loaded)) > 2  # it was replaced meanwhile
