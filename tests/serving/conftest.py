import re
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from ..commands import HANGS, command, environment, wait_for


@contextmanager
def serving(run: Path, *options):
    """The address of a server of a run, and its process."""
    line = command("serve", run, "--port", 0, "--timeout", HANGS, *options)
    told = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
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
    with serving(finished[0], "--max-upload", "2MB", "--max-pixels", "1000000") as (address, _):
        yield address
