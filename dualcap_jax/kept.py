"""What is kept for the next process beside JAX's compilations, in the same folder: what it takes to trace a network.

To trace B4, or a search, takes a second or more at each start; to read what was traced, a tenth of that. What is kept
hangs on the package's source, on JAX's version and settings, and on all that the trace itself hangs on.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax import export

from dualcap_jax.files import replacing

MOST = 200
"""Files that are kept; those used longest ago go first."""


def folder() -> Path | None:
    """Where things are kept; None where nothing is."""
    kept = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return Path(kept) / "traces" if kept and jax.config.jax_enable_compilation_cache else None  # type: ignore[attr-defined]


@cache
def _source() -> str:
    """A digest of this package."""
    paths = sorted(Path(__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _path(kind: str, about: Any) -> Path | None:
    where = folder()
    if where is None:
        return None
    settings = sorted((name, repr(value)) for name, value in jax.config.values.items() if "cache" not in name)
    hangs_on = repr((kind, about, _source(), jax.__version__, jax.default_backend(), settings))
    return where / f"{hashlib.sha256(hangs_on.encode()).hexdigest()[:40]}.{kind}"


def _read(path: Path) -> bytes:
    """What was kept.

    Raises:
        OSError: nothing is there.
        ValueError: it is not whole.
    """
    content = path.read_bytes()
    digest, data = content[:32], content[32:]
    if hashlib.sha256(data).digest() != digest:
        raise ValueError(f"{path} is not whole")
    path.touch()
    return data


def _write(path: Path, data: bytes) -> None:
    """Keep something where that is possible."""
    with suppress(OSError):
        with replacing(path) as file:
            file.write_bytes(hashlib.sha256(data).digest() + data)
        by_use = sorted(path.parent.iterdir(), key=lambda each: each.stat().st_mtime, reverse=True)
        for old in by_use[MOST:]:
            old.unlink()


def traced(function: Callable[..., Any], about: Any, *args: Any) -> Callable[..., Any]:
    """A function, compiled; traced by an earlier process where one did.

    Args:
        function: of arrays, in lists, tuples and dicts with text for keys; returns such.
        about: all that it hangs on beside its arguments, as its `repr` tells.
        args: what it will be called with, or what has their shapes and dtypes.
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), args)
    path = _path("stablehlo", (about, jax.tree.structure(shapes), jax.tree.leaves(shapes)))
    if path is None:
        return jax.jit(function)
    try:
        found = export.deserialize(bytearray(_read(path)))
    except (OSError, ValueError):  # none, or not whole
        found = export.export(jax.jit(function))(*shapes)
        _write(path, bytes(found.serialize()))
    return jax.jit(found.call)


def computed(kind: str, about: Any, compute: Callable[[], Any]) -> Any:
    """What JSON can hold, computed by an earlier process where one did.

    Args:
        kind: of what it is.
        about: all that it hangs on, as its `repr` tells.
        compute: makes it.
    """
    path = _path(kind, about)
    if path is not None:
        with suppress(OSError, ValueError):
            return json.loads(_read(path))
    value = compute()
    if path is not None:
        _write(path, json.dumps(value).encode())
    return value
