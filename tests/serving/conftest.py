import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..commands import command, environment, wait_for


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
        wait_for(lambda: httpx.get(f"{found[1]}/readyz").status_code == 200)
        yield found[1], told
    finally:
        told.kill()
        told.communicate()


@pytest.fixture(scope="session")
def server(finished) -> str:
    """The address of a server that all tests share."""
    with serving(finished[0], "--max-upload", "2MB", "--max-pixels", "1000000", "--timeout", "120") as (address, _):
        yield address
