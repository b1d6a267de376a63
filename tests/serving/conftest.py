import re
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..commands import command, environment


@contextmanager
def serving(run: Path, *options):
    """The address of a server of a run, and its process."""
    told = subprocess.Popen(
        command("serve", run, "--port", 0, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environment(),
    )  # fmt: skip
    try:
        assert told.stdout is not None
        line = told.stdout.readline()
        found = re.match(r"(http://\S+)", line)
        assert found, (line, told.stderr.read() if told.stderr else "")
        wait_until_ready(found[1])
        yield found[1], told
    finally:
        told.kill()
        told.communicate()


def wait_until_ready(address: str, seconds: float = 180) -> None:
    ends = time.monotonic() + seconds
    while httpx.get(f"{address}/readyz").status_code != 200:
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.fixture(scope="session")
def server(finished) -> str:
    """The address of a server that all tests share."""
    with serving(finished[0], "--max-upload", "2MB", "--max-pixels", "1000000", "--timeout", "120") as (address, _):
        yield address
