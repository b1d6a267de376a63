"""One process at a time writes somewhere."""

import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from dualcap_jax.errors import UserError
from dualcap_jax.files import write_text


class Owned(UserError):
    """Another process writes there."""


@contextmanager
def owned(lock: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes somewhere, until the block or the process ends, however it does.

    Args:
        lock: file that stands for it; beside it lies another that tells who holds it.
        what: is written, in words.
        wait: until another is done, and say so.

    Raises:
        Owned: another process writes there.
    """
    holder, mutex = lock.with_name(f"{lock.name}.holder"), FileLock(lock)
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        mutex.acquire(timeout=0)
    except Timeout:
        told = holder.read_text(encoding="utf-8").strip() if holder.is_file() else "another process"
        if not wait:
            raise Owned(f"{what}: is being written by {told}; wait for it to end, or stop it") from None
        print(f"{what}: waiting for {told}, which writes there", flush=True)
        mutex.acquire()
    try:
        command = shlex.join(sys.orig_argv)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        write_text(holder, f"process {os.getpid()} on {socket.gethostname()} since {since} ({command})\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        mutex.release()
