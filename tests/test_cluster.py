"""Captioning by a Ray cluster: two nodes on this machine, of which what dies is begun anew."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from dualcap_jax import caption

from .commands import HANGS, ROOT, command, environment, wait_for
from .test_bulk import FEW, draw, rows_of
from .test_command_errors import errors_of

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")

IMAGES = 96


@pytest.fixture(scope="module")
def address():
    """Of a cluster of two nodes, whose workers find this package."""
    from ray.cluster_utils import Cluster

    os.environ["PYTHONPATH"] = str(ROOT)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 100_000_000})
    cluster.add_node(num_cpus=1, object_store_memory=100_000_000)
    yield cluster.address
    cluster.shutdown()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for number in range(IMAGES):
        draw(folder / f"{number:03}.png", number)
    return folder


@pytest.fixture(scope="module")
def expected(folder, finished, tmp_path_factory) -> list[str]:
    out = tmp_path_factory.mktemp("here") / "out.jsonl"
    assert caption.main([str(finished[0]), str(folder), "--out", str(out), *FEW]) == 0
    return [row["caption"] for row in rows_of(out)]


def actors() -> list[int]:
    """Processes that caption."""
    found = subprocess.run(["pgrep", "-f", "^ray::.*Actor"], capture_output=True, text=True).stdout
    return [int(pid) for pid in found.split()]


def begin(finished, folder, out, address) -> subprocess.Popen:
    line = command("caption", finished[0], folder, "--out", out, "--ray", address, *FEW)
    return subprocess.Popen(line, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_noted(part: Path, count: int, process: subprocess.Popen) -> None:
    wait_for(lambda: part.exists() and part.read_bytes().count(b"\n") > count, process)


def is_whole(out: Path, folder: Path, expected: list[str]) -> None:
    rows = rows_of(out)
    assert [Path(row["image"]).name for row in rows] == sorted(path.name for path in folder.iterdir())
    assert [row["caption"] for row in rows] == expected


def test_a_worker_that_is_killed_is_begun_anew_and_each_image_is_there_once(
    finished, folder, expected, address, tmp_path
):
    out = tmp_path / "out.jsonl"
    process = begin(finished, folder, out, address)
    until_noted(tmp_path / "out.jsonl.part", 8, process)
    killed = actors()
    assert killed
    os.kill(killed[0], signal.SIGKILL)
    told = process.communicate(timeout=HANGS)
    assert process.returncode == 0, told
    is_whole(out, folder, expected)


def test_a_driver_that_is_killed_and_begun_again_does_what_is_missing(finished, folder, expected, address, tmp_path):
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    process = begin(finished, folder, out, address)
    until_noted(part, 8, process)
    process.kill()
    process.communicate()
    kept = sum(1 for line in part.read_text().splitlines()[1:] if json.loads(line))
    process = begin(finished, folder, out, address)
    printed, told = process.communicate(timeout=HANGS)
    assert process.returncode == 0, told
    assert f"{IMAGES} images, {kept} of them before" in printed
    is_whole(out, folder, expected)


def test_an_address_at_which_nothing_answers_is_told(finished, folder, tmp_path, capsys, monkeypatch):
    args = [finished[0], folder, "--out", tmp_path / "out.jsonl", "--ray", "127.0.0.1:1", *FEW]
    code, printed = errors_of(caption.main, args, capsys, monkeypatch)
    assert code == 2
    assert "error: --ray 127.0.0.1:1: no Ray cluster answers there ([Errno 111] Connection refused)" in printed
