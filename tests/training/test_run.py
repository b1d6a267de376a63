"""Who may write in a run directory, and what is noticed when it is taken up again."""

import json
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import grain
import numpy as np
import pytest

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.errors import ConfigError, DataWarning
from dualcap_jax.owners import Owned, owned
from dualcap_jax.training.checkpoints import Checkpoints
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.restoring import CheckpointError, restore_model
from dualcap_jax.training.run import Run, new_directory
from dualcap_jax.training.trained_on import check_data, index_of, load_own_tokenizer, note

from ..commands import environment

HOLD = """
import sys, time
from pathlib import Path
from dualcap_jax.owners import owned
with owned(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_is_and_a_killed_one_leaves_no_lock(tmp_path):
    lock = tmp_path / "run" / ".lock"
    process = subprocess.Popen([sys.executable, "-c", HOLD, lock], stdout=subprocess.PIPE, text=True, env=environment())
    assert process.stdout.readline() == "held\n"
    told = rf"runs/a: is being written by process {process.pid} on .+ since .+ \(.*-c"
    with pytest.raises(Owned, match=told), owned(lock, "runs/a"):
        pass
    process.kill()
    process.communicate()
    with owned(lock, "runs/a"):
        pass
    assert [path.name for path in lock.parent.iterdir()] == [".lock"]


def test_processes_that_begin_in_the_same_second_get_directories_of_their_own(tmp_path):
    assert [new_directory(tmp_path / "runs" / "now").name for _ in range(3)] == ["now", "now-2", "now-3"]


@pytest.fixture
def data(tmp_path) -> DataConfig:
    lines = [{"image": f"{n}.png", "captions": [f"caption {n}", "another"], "split": "train"} for n in range(4)]
    return write(tmp_path / "data", lines)


def write(root: Path, lines: list[dict]) -> DataConfig:
    root.mkdir(exist_ok=True)
    for line in lines:
        (root / line["image"]).touch()
    (root / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataConfig(str(root))


def changed(data: DataConfig, change) -> DataConfig:
    lines = [json.loads(line) for line in (Path(data.root) / "captions.jsonl").read_text().splitlines()]
    return write(Path(data.root), change(lines))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: lines[1:], r"1 gone \(such as '0.png'\)"),
        (lambda lines: [*lines, {**lines[0], "image": "x.png"}], r"1 new \(such as 'x.png'\)"),
        (lambda lines: [{**lines[0], "captions": ["other"]}, *lines[1:]], r"1 with other captions \(such as '0.png'\)"),
        (lambda lines: lines[::-1], "they come in another order"),
        (lambda lines: [{**line, "image": f"_{line['image']}"} for line in lines], r"4 gone .*, 4 new"),
    ],
)
def test_data_that_changed_under_a_run_are_named(data, tmp_path, change, told):
    source = open_source(data, "train")
    note(tmp_path, train_tokenizer(iterate_captions(source), 300), index_of(source))
    check_data(tmp_path, index_of(source), data.root)
    now = open_source(changed(data, change), "train")
    with pytest.raises(DataError, match=f"was trained on: {told}.* --init-from"):
        check_data(tmp_path, index_of(now), data.root)


def test_a_moved_set_is_the_same(data, tmp_path):
    index = index_of(open_source(data, "train"))
    Path(data.root).rename(tmp_path / "elsewhere")
    assert index_of(open_source(replace(data, root=str(tmp_path / "elsewhere")), "train")) == index


def test_another_tokenizer_and_a_missing_one_are_noticed_and_never_sought_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", None)
    ours, theirs = train_tokenizer(["a dog"] * 3, 260), train_tokenizer(["two birds"] * 3, 260)
    assert ours.vocab_size == theirs.vocab_size
    ours.save(tmp_path / "tokenizer")
    note(tmp_path, ours, {})
    assert load_own_tokenizer(tmp_path, ours.vocab_size).digest == ours.digest
    theirs.save(tmp_path / "tokenizer")
    with pytest.raises(DataError, match="not the tokenizer that the run was trained with; bring back"):
        load_own_tokenizer(tmp_path, ours.vocab_size)
    (tmp_path / "trained_on.json").unlink()  # as of an older run
    with pytest.raises(DataError, match=f"has {ours.vocab_size} tokens, and the run's network 300"):
        load_own_tokenizer(tmp_path, 300)
    (tmp_path / "tokenizer").rename(tmp_path / "away")
    with pytest.raises(DataError, match="the run's tokenizer is not there; bring back"):
        load_own_tokenizer(tmp_path, ours.vocab_size)
    (tmp_path / "away").rename(tmp_path / "tokenizer")
    load_own_tokenizer(tmp_path, ours.vocab_size)


def state(value: float) -> dict:
    import jax.numpy as jnp

    return {"model": {"params": {"a": jnp.full((40,), value)}}, "optimizer": {"step": jnp.int32(value)}}


@pytest.fixture
def run_directory(tmp_path) -> Path:
    workdir = tmp_path / "run"
    checkpoints = Checkpoints(workdir)
    checkpoints.save(5, state(5), {"next_index": 5})
    checkpoints.save_best(4, state(4), 1.5, "these images")
    checkpoints.close()
    return workdir


def break_files(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:-7])


def remove_files(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [break_files, remove_files])
def test_a_broken_checkpoint_is_named_with_the_other_one(run_directory, damage):
    model = state(0)["model"]
    damage(run_directory / "checkpoints" / "best" / "4")
    with pytest.raises(CheckpointError) as told:
        restore_model(run_directory, model, "best")
    message = str(told.value)
    assert message.startswith(f"{run_directory}/checkpoints/best/4: the checkpoint can't be read (")
    moved = f"{run_directory}/checkpoints/best {run_directory}/checkpoints/best.broken"
    assert f"mv {moved} lets the latest checkpoint, of step 5, take its place" in message
    assert "\n" not in message
    (run_directory / "checkpoints" / "best").rename(run_directory / "checkpoints" / "best.broken")
    restored, step = restore_model(run_directory, model, "best")
    assert step == 5
    assert float(restored["params"]["a"][0]) == 5
    damage(run_directory / "checkpoints" / "latest" / "5")
    with pytest.raises(CheckpointError, match="has no other: bring it back from a copy"):
        restore_model(run_directory, model, "latest")


@pytest.mark.parametrize("damage", ["cut", "emptied", "gone"])
def test_whatever_file_of_the_latest_checkpoint_is_broken_no_wrong_number_is_read(run_directory, tmp_path, damage):
    checkpoints = Checkpoints(run_directory)
    checkpoints.save(8, state(8), {"next_index": 8})
    checkpoints.close()
    whole = run_directory / "checkpoints" / "latest" / "8"
    fell_back = 0
    for number, name in enumerate(path.relative_to(run_directory) for path in whole.rglob("*") if path.is_file()):
        workdir = Path(shutil.copytree(run_directory, tmp_path / f"{number}"))
        content = (workdir / name).read_bytes()
        if damage == "gone":
            (workdir / name).unlink()
        else:
            (workdir / name).write_bytes(content[: len(content) // 2 * (damage == "cut")])
        checkpoints, batches = Checkpoints(workdir), iter(grain.MapDataset.range(99).to_iter_dataset())
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", DataWarning)
            model, read = restore_model(workdir, state(0)["model"], "latest")
            restored = checkpoints.restore(state(0), batches)
        step = checkpoints.latest_step
        assert float(model["params"]["a"].min()) == float(model["params"]["a"].max()) == read
        assert int(restored["optimizer"]["step"]) == step == next(batches)
        np.testing.assert_array_equal(restored["model"]["params"]["a"], np.full(40, step))
        warned = [str(each.message) for each in told if issubclass(each.category, DataWarning)]
        assert len(warned) == (read == 5) + (step == 5)
        assert all(
            "latest/8: the checkpoint can't be read (" in each and "that of step 5 is used" in each for each in warned
        )
        fell_back += step == 5
        checkpoints.save(8, state(80), {"next_index": 8})
        checkpoints.close()
        if step == 5:
            assert float(restore_model(workdir, state(0)["model"], "latest")[0]["params"]["a"][0]) == 80
    assert fell_back > 5


def test_a_best_checkpoint_of_another_validation_is_no_measure(run_directory):
    assert Run(run_directory, TrainingConfig(steps=9), "these images").best == 1.5
    with Run(run_directory, TrainingConfig(steps=9), "other images") as run:
        assert run.best == float("inf")
        run.checkpoints.save_best(4, state(7), 2.5, "other images")
    assert Run(run_directory, TrainingConfig(steps=9), "other images").best == 2.5


def test_fewer_steps_than_a_run_has_are_refused(run_directory):
    Run(run_directory, TrainingConfig(steps=5))
    with pytest.raises(ConfigError, match=r"training.steps=4: must be at least 5, the step that .*run is at"):
        Run(run_directory, TrainingConfig(steps=4))


def test_a_checkpoint_that_another_replaces_meanwhile_is_read_anew(run_directory, monkeypatch):
    from dualcap_jax.training import restoring as module

    whole = module._restore_step
    calls = []

    def replaced(folder, step, model):
        calls.append(step)
        if step == 4:
            (folder / "4").rename(folder / "8")
            raise FileNotFoundError(folder / "4" / "model")
        return whole(folder, step, model)

    monkeypatch.setattr(module, "_restore_step", replaced)
    _, step = restore_model(run_directory, state(0)["model"], "best")
    assert (step, calls) == (8, [4, 8])


FULL = """
import resource, sys
from pathlib import Path
from tests.training.test_run import state
from dualcap_jax import cli
from dualcap_jax.training.checkpoints import Checkpoints

def main(arguments):
    checkpoints = Checkpoints(Path(arguments[0]))
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # as of a full disk, a write fails
    checkpoints.save(6, state(6), {})
    checkpoints.close()
    return 0

cli.run(main)
"""


def test_a_checkpoint_that_cannot_be_written_is_told_in_a_line_and_the_one_before_stands(run_directory):
    done = subprocess.run(
        [sys.executable, "-c", FULL, run_directory], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert f"error: {run_directory}: a checkpoint can't be written (" in done.stderr
    assert "that of step 5 stands; make room, and the same command goes on from there" in done.stderr
    assert restore_model(run_directory, state(0)["model"], "latest")[1] == 5
