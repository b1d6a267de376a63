"""The tables of what was compiled."""

from collections.abc import Iterable
from typing import Any

from dualcap_jax.fitting.devices import GIB

Row = dict[str, Any]
"""A line of a table: what was compiled, `Usage`'s fields, and `fits`."""


HEAD = {
    "step": "step", "dtype": "computes in", "remat": "recomputes", "batch_size": "images", "model": "model",
    "optimizer": "optimizer", "batch": "batch", "temporaries": "temporaries", "peak": "peak", "flops": "TFLOP",
    "fits": "fits",
}  # fmt: skip
"""Columns of a table; those that a row lacks are left out."""


def report(about: Row, training: list[Row], largest: list[Row], decoding: list[Row]) -> Iterable[str]:
    """The tables, line by line."""
    yield f"experiment: {about['experiment']}; captions of an image: {about['captions_per_image']}, {about['places']}"
    many = f"{about['devices']} x " if about["devices"] > 1 else ""
    room = ""
    if about["limit"]:
        room = f", {_gib(about['memory'])} GiB each"
    if about["limit"] != about["memory"]:
        room += f", {_gib(about['limit'])} of it for XLA (XLA_PYTHON_CLIENT_MEM_FRACTION={about['share']:g})"
    yield f"device: {many}{about['device']}{room}"
    yield "GiB of each device; TFLOP (products and convolutions) of all together, of a search for one token"
    for rows in filter(None, (training, decoding)):
        yield ""
        yield from table(rows)
    if largest:
        yield ""
    for each in largest:
        found = each["batch_size"] or "none"
        yield f"largest batch that fits ({each['dtype']}, recomputes {each['remat']}): {found}"
    for row in training:
        for kind, (count, size) in row["collectives"].items():
            about_row = f"{row['batch_size']} images, {row['dtype']}, recomputes {row['remat']}"
            yield f"{kind} ({about_row}): {count}, {size / 2**20:,.1f} MiB of results"


def table(rows: list[Row]) -> Iterable[str]:
    """Rows under a head, in columns."""
    names = [name for name in HEAD if name in rows[0]]
    cells = [[HEAD[name] for name in names], *([_cell(name, row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    for line in cells:
        texts = zip(names, line, widths, strict=True)
        yield "  ".join(
            text.ljust(width) if name in ("step", "dtype", "remat") else text.rjust(width)
            for name, text, width in texts
        )


def _cell(name: str, value: Any) -> str:
    if name == "fits":
        return "yes" if value else "no"
    if name == "flops":
        return f"{value / 1e12:.3g}"
    return _gib(value) if name in ("model", "optimizer", "batch", "temporaries", "peak") else str(value)


def _gib(size: int) -> str:
    return f"{size / GIB:.3g}"
