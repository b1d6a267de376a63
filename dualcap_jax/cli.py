"""What the commands share: arguments from dataclasses, and mistakes told in one line."""

import argparse
import errno
import io
import os
import signal
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args, get_origin, get_type_hints

import tyro

from dualcap_jax import interrupts, starting
from dualcap_jax.errors import ConfigError, Stopped, UserError

T = TypeVar("T")

COMPILATIONS = (
    "What was compiled is kept for the next start, in the folder dualcap_jax of the user's cache; with "
    "--no-compilation-cache nothing is."
)
KEPT_SIZE = 4 * 2**30
"""Bytes of what was compiled that are kept; what was not used for longest goes first."""

_POSITIONAL = tyro.conf.Positional[str].__metadata__[0]  # type: ignore[attr-defined]


def parse(kind: type[T], args: Sequence[str], command: str, description: str, default: Any = None) -> T:
    """Arguments of a command as an instance of the dataclass `kind`.

    An option is given by the whole dotted name of its field, or by as much of its end as no other option has.
    Prints help, or what is wrong with which argument, and exits where need be (code 0 or 2).

    Args:
        kind: what the command takes.
        args: the command line.
        command: its name.
        description: for its help.
        default: of what is not given; a run's own settings are read before them, see `first`.

    Raises:
        ConfigError: for a field with an impossible value, or an option that there is not.
    """
    args = spelt_out(args, {whole: option for whole, option, _ in _options(kind, default)})
    try:
        return tyro.cli(
            kind,
            args=args,
            default=default,
            prog=program(command),
            description=f"{description} {COMPILATIONS}",
            config=(tyro.conf.FlagConversionOff,),
        )
    except ValueError as error:  # of fields without a prefix, which tyro lets through
        raise ConfigError(str(error)) from None


def program(command: str) -> str:
    """How a command was called, for its help."""
    called = sys.argv[0]
    return called if called.startswith("dualcap ") else f"python -m dualcap_jax.{command}"


def first(kind: type, args: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """What a command line holds, as text: to find the run whose settings are the defaults of all other options.

    Args:
        kind: as for `parse`.
        args: the command line.

    Returns:
        The options of one value by name, empty where they are not given; and the other arguments, none where an
        option is not known, since its value would be among them.

    Raises:
        ConfigError: an option lacks its value.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    names = {}
    for whole, option, hint in _options(kind, None):
        names[whole] = option
        parser.add_argument(f"--{option}", dest=option, default="", nargs="*" if get_origin(hint) is tuple else None)
    try:
        args, known = spelt_out(args, names), True
    except ConfigError:
        known = False
    named, others = parser.parse_known_args(args)
    single = {name: value for name, value in vars(named).items() if isinstance(value, str)}
    return single, [each for each in others if not each.startswith("-")] if known else []


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


class ArgumentParser(argparse.ArgumentParser):
    """Of a script: takes options as `parse` does, and suggests one for a misspelt one.

    Args:
        section: of an experiment that the options are named as, such as "data": `--data.resize` is then `--resize`.
        settings: argparse's.
    """

    def __init__(self, section: str = "", **settings: Any):
        super().__init__(**settings)
        self._section = section

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse."""
        options = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        try:
            args = spelt_out(
                sys.argv[1:] if args is None else args, {f"{self._section}.{each}": each for each in options}
            )
        except ConfigError as error:
            self.error(str(error))
        return super().parse_known_args(args, namespace)


def spelt_out(args: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """A command line with its options as the parser knows them.

    Args:
        args: the command line.
        names: options by the whole dotted names of their fields.

    Raises:
        ConfigError: an option may be several, or is none; then with the one that was probably meant.
    """
    ends: dict[str, set[str]] = defaultdict(set)
    for whole, option in names.items():
        parts = whole.split(".")
        for place in range(len(parts)):
            ends[".".join(parts[place:])].add(option)
    ends |= {option: {option} for option in names.values()}
    spelt: list[str] = []
    for place, arg in enumerate(args):
        if arg == "--":
            return [*spelt, *args[place:]]
        name, equals, value = arg.removeprefix("--").partition("=")
        if not arg.startswith("--") or name == "help" or name.startswith("tyro-"):
            spelt.append(arg)
            continue
        asked = name.replace("_", "-")
        found = sorted(ends.get(asked, ()))
        if not found:
            meant = [f"--{option}" for end in get_close_matches(asked, ends, 1) for option in sorted(ends[end])]
            suggested = f"; did you mean {' or '.join(meant)}?" if meant else ""
            raise ConfigError(f"--{name}: there is no such option{suggested}")
        if len(found) > 1:
            raise ConfigError(f"--{name}: may be {', '.join(map('--{}'.format, found))}; give more of the name")
        spelt.append(f"--{found[0]}{equals}{value}")
    return spelt


def _options(kind: type, default: Any, whole: str = "", prefix: str = "") -> Iterator[tuple[str, str, Any]]:
    """The whole dotted name, the option and the type of each field that is one, as tyro names them."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, marks = hints[field.name], getattr(hints[field.name], "__metadata__", ())
        if _POSITIONAL in marks:
            continue
        own = next((mark.name for mark in marks if getattr(mark, "name", None) is not None), field.name)
        name, option = (f"{before}{each}".replace("_", "-") for before, each in ((whole, field.name), (prefix, own)))
        value = _default(field) if default is None else getattr(default, field.name)
        if is_dataclass(value):
            yield from _options(type(value), value, f"{name}.", f"{option}." if own else prefix)
        else:
            yield name, option, get_args(hint)[0] if marks else hint


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@contextmanager
def naming_memory(*mends: str) -> Iterator[None]:
    """Tell in one line that memory ran out in this block.

    Args:
        mends: what helps, with the values at hand, such as "lower --decoding.num-beams (now 5)".

    Raises:
        OutOfMemory: it did.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # JAX's own is a RuntimeError
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        cause = next(iter(str(error).removeprefix("RESOURCE_EXHAUSTED: ").splitlines()), "")
        raise OutOfMemory(f"out of memory{f' ({cause})' if cause else ''}: {'; or '.join(mends)}") from error


class OutOfMemory(UserError):
    """The device's memory, or the machine's, does not hold what was asked for."""


def keep_compilations(args: list[str]) -> list[str]:
    """Let JAX keep what it compiles for the next process, where the user has not said otherwise.

    Args:
        args: the command line.

    Returns:
        It without `--no-compilation-cache`.
    """
    import jax

    others = [arg for arg in args if arg != "--no-compilation-cache"]
    if len(others) < len(args):
        jax.config.update("jax_enable_compilation_cache", False)
    elif getattr(jax.config, "jax_compilation_cache_dir", None) is None:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "dualcap_jax"
        with suppress(OSError):  # such as a home that is read-only
            folder.mkdir(parents=True, exist_ok=True)
            jax.config.update("jax_compilation_cache_dir", str(folder))
            jax.config.update("jax_compilation_cache_max_size", KEPT_SIZE)
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return others


@contextmanager
def telling_when_slow(what: str, seconds: float = 2.0) -> Iterator[None]:
    """Say on standard error what is being waited for, once it has taken so long."""
    timer = threading.Timer(seconds, lambda: _tell(what))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def run(main: Callable[[Sequence[str]], int]) -> None:
    """Run a command on the process's arguments and exit.

    A user's mistake is one line and code 2; a signal that asked for an end is code 128 + its number.
    """
    starting.collect_again()
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):  # what a terminal cannot print is no reason to end: names of files
        sys.stdout.reconfigure(errors="backslashreplace")
    with _only_ours(), interrupts.listening():
        code = _exit_code(main)
        if interrupts.asked() is not None:
            os._exit(code)  # XLA's threads may be compiling still, and Python would crash while it takes itself apart
    sys.exit(code)


@contextmanager
def _only_ours() -> Iterator[None]:
    """Keep libraries from printing what became of work that a failure, told by us, made needless."""
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = lambda _: None, lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook, threading.excepthook = before


def _exit_code(main: Callable[[Sequence[str]], int]) -> int:
    """Run a command, tell how it failed."""
    try:
        code = main(keep_compilations(sys.argv[1:]))
        sys.stdout.flush()
        return code
    except Stopped as stop:
        _tell(str(stop))
        return stop.exit_code
    except KeyboardInterrupt:
        if interrupts.asked() is None:
            _tell("interrupted")
    except BrokenPipeError:  # the reader, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, OSError) as error:
        if interrupts.asked() is None:
            _tell(f"error: {error}")
            code = error.exit_code if isinstance(error, UserError) else 2
            if getattr(error, "at_once", False) or getattr(error, "errno", None) == errno.ENOSPC:
                os._exit(code)  # libraries would try once more to write, and say at length that they can't
            return code
    except Exception:
        if interrupts.asked() is None:  # else what an interrupt became on its way through a library
            raise
    interrupts.tell()
    return 128 + (interrupts.asked() or signal.SIGINT)


def _tell(line: str) -> None:
    with suppress(OSError):  # the terminal is gone
        sys.stdout.flush()
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def _open_closed_streams() -> None:
    """Let a stream that was closed when the process began (`>&-`) lead nowhere, not into the next file opened."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free: the stream's own
            setattr(sys, name, os.fdopen(nowhere, mode))
