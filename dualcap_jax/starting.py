"""What holds while a command's modules are imported, which takes a second or more."""

import gc
import os
import signal
import sys
from multiprocessing import parent_process
from types import FrameType

HUGE_PAGES = "glibc.malloc.hugetlb"
"""What asks for them, in the environment."""
WHO_GETS_THEM = "/sys/kernel/mm/transparent_hugepage/enabled"
"""Linux's answer: `always [madvise] never`."""


def is_command() -> bool:
    """Whether the process is one of our commands or scripts, not another's program that imports us."""
    name, scripts = "".join(sys.argv[:1]), os.path.join(os.path.dirname(__file__), "..", "scripts")
    if name == "-m":
        return any("dualcap_jax." in each for each in sys.orig_argv)
    if os.path.basename(name) in ("dualcap", "dualcap.exe"):
        return True
    return os.path.dirname(os.path.realpath(name)) == os.path.realpath(scripts)


def use_huge_pages() -> None:
    """Begin the process anew with memory in pages of 2 MiB, where the system gives them to those who ask.

    XLA on CPU asks for gigabytes at each step and gives them back: in pages of 4 KiB that takes a third of its time.
    Only the environment that a process begins with can ask for them (glibc's malloc(3), tunables).
    """
    try:
        with open(WHO_GETS_THEM) as file:
            to_askers = "[madvise]" in file.read()
    except OSError:  # another system
        return
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    if to_askers and HUGE_PAGES not in tunables and parent_process() is None:
        os.environ["GLIBC_TUNABLES"] = ":".join(filter(None, [tunables, f"{HUGE_PAGES}=1"]))
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


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
