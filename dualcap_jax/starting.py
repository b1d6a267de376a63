"""What holds while a command's modules are imported, which takes a second or more."""

import gc
import os
import signal
import sys
from multiprocessing import parent_process
from types import FrameType


def is_command() -> bool:
    """Whether the process is one of our commands or scripts, not another's program that imports us."""
    name, scripts = "".join(sys.argv[:1]), os.path.join(os.path.dirname(__file__), "..", "scripts")
    if name == "-m":
        return any("dualcap_jax." in each for each in sys.orig_argv)
    if os.path.basename(name) in ("dualcap", "dualcap.exe"):
        return True
    return os.path.dirname(os.path.realpath(name)) == os.path.realpath(scripts)


def end_at_once() -> None:
    """Let Ctrl-C end the process in one line from now on, until something else answers it."""

    def leave(number: int, frame: FrameType | None) -> None:
        try:
            os.write(2, b"interrupted\n")
        finally:
            os._exit(128 + number)

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def put_off_collecting() -> None:
    """Collect no garbage until `collect_again`: imports leave little, and searching takes a tenth of their time.

    Not in a process that another one of ours began, which imports the command and never runs it.
    """
    if parent_process() is None:
        gc.disable()


def collect_again() -> None:
    """Collect what is made from now on; what there is already stays until the end."""
    gc.freeze()
    gc.enable()
