"""What every configuration asks of its fields: that they are there, and of their declared types."""

import ast
import os
import re
import reprlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import fields
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from typeguard import TypeCheckError, check_type

from dualcap_jax.errors import ConfigError

_WORDS = {
    int: ["a whole number"],
    float: ["a number"],
    str: ["text"],
    bool: ["True", "False"],
    NoneType: ["None"],
}


def check_types(config: Any, prefix: str) -> None:
    """Refuse a field that is not of its declared type; a list is taken as the tuple, a path as the text.

    Args:
        config: a frozen dataclass, at the start of its `__post_init__`.
        prefix: what stands before its fields' names on the command line, such as "training.".

    Raises:
        ConfigError: names the field, the value, what it must be, and what was probably meant.
    """
    hints = get_type_hints(type(config))
    for field in fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        object.__setattr__(config, field.name, value)
        members, member_hint = (value, get_args(hint)[0]) if _is_tuple(value, hint) else ((value,), hint)
        for member in members:
            if not _fits(member, member_hint):
                wanted = f"{_in_words(member_hint)}{_meant(member, member_hint)}"
                raise ConfigError(f"{prefix}{field.name}={reprlib.repr(member)}: must be {wanted}")


def check_names(kind: type, names: Iterable[str]) -> None:
    """Refuse names that are no fields of a dataclass.

    Raises:
        ConfigError: names the first, and the field that was probably meant.
    """
    known = [field.name for field in fields(kind)]
    for name in names:
        if name not in known:
            raise ConfigError(f"{kind.__name__} has no field {name}{suggestion(name, known)}")


def suggestion(name: str, known: Iterable[str]) -> str:
    """The known name that is most like a misspelt one, as the end of a sentence; nothing where none is like it."""
    close = get_close_matches(name, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def bytes_of(name: str, size: str) -> int:
    """Bytes of a size such as 6GiB, 6 gb or 512MiB.

    Args:
        name: of the setting.
        size: its value; a number alone is of GiB.

    Raises:
        ConfigError: it is none.
    """
    units = {"gib": 2**30, "mib": 2**20, "gb": 10**9, "mb": 10**6, "": 2**30}
    found = re.fullmatch(r"(\d*\.?\d+)\s*(gib|mib|gb|mb|)", size.strip().lower())
    if found is None:
        raise ConfigError(f"{name} {size}: must be a number and GiB, MiB, GB or MB, such as 6GiB")
    return round(float(found[1]) * units[found[2]])


def _is_tuple(value: object, hint: Any) -> bool:
    return isinstance(value, tuple) and get_origin(hint) is tuple


def _fits(value: object, hint: Any) -> bool:
    if isinstance(value, bool) and bool not in (hint, *get_args(hint)):  # to Python a bool is an int
        return False
    try:
        check_type(value, hint)
    except TypeCheckError:
        return False
    return True


def _in_words(hint: Any) -> str:
    """A type, for a sentence."""
    *others, last = _choices(hint)
    return f"{', '.join(others)} or {last}" if others else last


def _choices(hint: Any) -> list[str]:
    origin, choices = get_origin(hint), get_args(hint)
    if origin is Literal:
        return list(map(repr, choices))
    if origin in (Union, UnionType):
        return [each for choice in choices for each in _choices(choice)]
    if origin is tuple:
        return [f"a tuple, each of it {_in_words(choices[0])}"]
    return _WORDS.get(hint) or [f"of the kind {hint.__name__}"]


def _meant(value: object, hint: Any) -> str:
    """What was probably meant by a value of the wrong type, as the end of a sentence."""
    guesses: list[object] = []
    if isinstance(value, str):
        guesses += get_close_matches(value, [each for each in get_args(hint) if isinstance(each, str)])
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            guesses.append(ast.literal_eval(value))
    if isinstance(value, float) and value.is_integer():
        guesses.append(int(value))
    guesses.append((value,))
    return next((f"; did you mean {guess!r}?" for guess in guesses if _fits(guess, hint)), "")
