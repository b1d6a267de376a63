"""Training on several devices is training on one."""

import json
import subprocess
import sys

import numpy as np
import pytest

from dualcap_jax.errors import ConfigError
from dualcap_jax.training.sharding import ShardingConfig, make_mesh

from ..commands import ROOT, environment

DEVICES = "--xla_force_host_platform_device_count=8"


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
    ],
)
def test_losses_and_statistics_are_those_of_one_device(trained, layout, alone):
    for name in ("losses", "statistics"):
        found, expected = (np.array(trained[each][name]) for each in (layout, alone))
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found, expected, rtol=2e-4, atol=2e-4 * scale, err_msg=name)
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
