"""Signals that ask a command to end: answered at once, obeyed where nothing is lost by it.

A command that has nothing unsaved ends where it is. One that has (`hold`) is only told, and leaves when it next asks
(`asked`). Either ends at once, without saving, when asked a second time.
"""

import multiprocessing
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from types import FrameType

GRACE = 2.0
"""Seconds that an ending command has to clear up: compiling for minutes, it doesn't come to it."""
AGAIN = 0.5
"""Seconds within which signals count as one: terminals and `timeout` send the same one in several ways."""


@dataclass
class _State:
    """Of this process: its signals are too."""

    listening: bool = False
    number: int | None = None
    held: str = ""
    told: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_state = _State()


@contextmanager
def listening() -> Iterator[None]:
    """Answer SIGINT, SIGTERM and SIGHUP within the block: by `KeyboardInterrupt` where nothing is held.

    Blocks may be nested. Outside of the main thread, which alone may handle signals, it does nothing.
    """
    if _state.listening or threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.SIGINT, signal.SIGTERM]
    hangup = getattr(signal, "SIGHUP", None)
    if hangup is not None and signal.getsignal(hangup) is not signal.SIG_IGN:  # else by nohup
        numbers.append(hangup)
    ours, pythons = socket.socketpair()
    pythons.setblocking(False)
    _state.listening, _state.number, _state.held, _state.told = True, None, "", False
    handlers = {number: signal.signal(number, _obey) for number in numbers}
    wakeup = signal.set_wakeup_fd(pythons.fileno(), warn_on_full_buffer=False)
    thread = threading.Thread(target=_answer, args=(ours,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        pythons.close()
        thread.join()
        ours.close()
        _state.listening, _state.held = False, ""


def follow_parent(number: int = 0, count: int = 0) -> None:
    """In a worker process: end when the process that began it does, and not before, whatever a terminal sends to all.

    Args:
        number: of the worker.
        count: of workers.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hangup := getattr(signal, "SIGHUP", None):
        signal.signal(hangup, signal.SIG_IGN)
    if parent := multiprocessing.parent_process():

        def wait() -> None:
            connection.wait([parent.sentinel])
            os._exit(1)

        threading.Thread(target=wait, daemon=True).start()


def hold(promise: str) -> None:
    """From now on there is something to save: who asks is told the promise, and `asked` says that they did."""
    _state.held = promise


def release() -> None:
    """All is saved: an end that was asked for meanwhile comes now.

    Raises:
        KeyboardInterrupt: it was.
    """
    _state.held = ""
    if _state.number is not None:
        raise KeyboardInterrupt


def asked() -> int | None:
    """The signal that asked for an end, if one did."""
    return _state.number


def ask(number: int) -> None:
    """Ask for an end as that signal does."""
    if _state.number is None:
        _state.number = number


def tell() -> None:
    """Say, once, that the signal was noted."""
    with _state.lock:
        if _state.number is not None and not _state.told:
            _state.told = True
            name, promise = signal.Signals(_state.number).name, _state.held
            _write(f"{name} noted: {promise}; once more leaves at once" if promise else f"interrupted ({name})")


def _obey(number: int, frame: FrameType | None) -> None:
    """Python's handler, which the main thread runs between two of its own instructions: not while XLA compiles."""
    first = _state.number is None
    ask(number)
    if first and not _state.held:
        raise KeyboardInterrupt


def _answer(signals: socket.socket) -> None:
    """The thread that is told of each signal as it comes, whatever the main thread does."""
    first: float | None = None
    while True:
        ends_by = None if first is None or _state.held else max(0.0, first + GRACE - time.monotonic())
        if not select.select([signals], [], [], ends_by)[0]:
            os._exit(128 + (_state.number or signal.SIGINT))
        received = signals.recv(1)
        if not received:
            return
        number = received[0]
        if signal.getsignal(number) is not _obey:
            continue
        ask(number)
        tell()
        if first is None:
            first = time.monotonic()
        elif time.monotonic() - first > AGAIN:
            _write("leaving at once")
            os._exit(128 + number)


def _write(line: str) -> None:
    """To standard error itself, past what the main thread may be writing there."""
    with suppress(OSError):
        os.write(2, f"\n{line}\n".encode() if os.isatty(2) else f"{line}\n".encode())
