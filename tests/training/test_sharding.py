"""Training on several devices is training on one."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dualcap_jax.errors import ConfigError
from dualcap_jax.training.sharding import ShardingConfig, make_mesh

from ..commands import ROOT, TINY, environment, run

DEVICES = "--xla_force_host_platform_device_count=8"
CONSTANT = [*TINY, "--training.schedule", "constant", "--training.log-every", "1", "--training.learning-rate"]
CONSTANT += ["1e-4", "--training.warmup-steps", "0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, dict]:
    """What `meshes.py` prints, by layout."""
    path = tmp_path_factory.mktemp("meshes") / "found.json"
    flags = {"XLA_FLAGS": f"{environment()['XLA_FLAGS']} {DEVICES}"}
    command = [sys.executable, "-m", "tests.training.meshes", str(path)]
    subprocess.run(command, check=True, cwd=ROOT, env={**environment(), **flags})
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    ("layout", "alone"),
    [
        ("data", "one"),
        ("fsdp", "one"),
        ("both", "one"),
        ("both, in two parts", "one, in two parts"),
        ("data, padded", "one, padded"),
        ("both, taught", "one, taught"),
    ],
)
def test_losses_and_statistics_are_those_of_one_device(trained, layout, alone):
    for name, tolerance in {"losses": 2e-4, "statistics": 5e-5}.items():
        found, expected = (np.array(trained[each][name]) for each in (layout, alone))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance * scale, err_msg=name)
    assert trained[alone]["losses"][-1] < trained[alone]["losses"][0] - 0.02  # it learnt


def test_a_device_keeps_less_the_more_of_them_share_the_state(trained):
    kept = {layout: trained[layout]["bytes"] for layout in ("one", "data", "both", "fsdp")}
    assert kept["data"] == kept["one"]
    assert kept["fsdp"] < kept["both"] < kept["one"] / 2


def test_devices_that_share_nothing_but_batches_exchange_only_sums(trained):
    assert not trained["data"]["gathers"]
    assert trained["fsdp"]["gathers"]


@pytest.mark.parametrize(
    ("sharding", "batch_size", "told"),
    [
        (ShardingConfig(data=3), 6, r"sharding.data=3: .* is 3, of 1 devices: it must be at most 1"),
        (ShardingConfig(fsdp=2), 6, r"sharding.fsdp=2: .* is 2, of 1 devices"),
    ],
)
def test_a_mesh_of_more_devices_than_there_are_is_refused(sharding, batch_size, told):
    with pytest.raises(ConfigError, match=told):
        make_mesh(sharding, batch_size, 1)


def rows(workdir) -> list[dict]:
    every = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [row for row in every if row["split"] == "train"]


def use_devices(monkeypatch, count: int) -> None:
    """In the commands that are run from here on."""
    flags = environment()["XLA_FLAGS"].split()
    others = [flag for flag in flags if "device_count" not in flag]
    monkeypatch.setenv("XLA_FLAGS", " ".join([*others, f"--xla_force_host_platform_device_count={count}"]))


@pytest.mark.slow
def test_a_run_goes_from_eight_devices_to_four_and_to_one_as_if_it_were_one(tmp_path, monkeypatch):
    run("train", "--workdir", tmp_path / "alone", *CONSTANT, "--training.steps", 9)
    for count, group, steps in [(8, 4, 3), (4, 2, 6), (1, 1, 9)]:
        use_devices(monkeypatch, count)
        settings = [*CONSTANT, "--training.steps", steps, "--sharding.fsdp", group]
        done = run("train", "--workdir", tmp_path / "moved", *settings)
        assert (f"device: {count} x " in done.stdout) is (count > 1)
    alone, moved = rows(tmp_path / "alone"), rows(tmp_path / "moved")
    assert [row["step"] for row in moved] == list(range(1, 10))
    for name in ("loss", "grad_norm"):  # another order of the data would change them by some per cent
        np.testing.assert_allclose([row[name] for row in moved], [row[name] for row in alone], rtol=1e-4)


@pytest.mark.slow
def test_self_critical_training_on_eight_devices_draws_and_learns_what_one_does(finished, tmp_path, monkeypatch):
    settings = ["--init-from", finished[0], *"--training.objective self_critical --training.steps 4".split()]
    settings += "--training.batch-size 8 --training.log-every 1 --training.warmup-steps 0".split()
    settings += "--training.validate-every 4 --training.checkpoint-every 4".split()
    found = {}
    for count in (1, 8):
        use_devices(monkeypatch, count)
        run("train", "--workdir", tmp_path / str(count), *settings)
        found[count] = rows(tmp_path / str(count))
    for name in ("reward", "baseline", "loss", "grad_norm"):
        values = [[row[name] for row in found[count]] for count in (1, 8)]
        scale = np.abs(values[0]).max()
        assert scale > 0
        np.testing.assert_allclose(*values, rtol=1e-3, atol=1e-3 * scale, err_msg=name)
