"""What a tensor of a published file is called here: the tables, and the account of every name on both sides."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from dualcap_jax.errors import UserError

Tensors = Mapping[str, np.ndarray]
Tree = Mapping[str, Any]
"""Nested dicts of arrays."""
TreePath = tuple[str, ...]
"""Where an array lies in our nested dicts, such as ("params", "encoder", "stem")."""


class PretrainedError(UserError):
    """Published weights that cannot be had, read or fitted; the message says which and what to do."""


class TensorName(NamedTuple):
    """One line of a table: what an array of ours is called in a published file."""

    name: str
    path: TreePath
    layout: str
    """Of `LAYOUTS`."""


# theirs -> ours, ours -> theirs
LAYOUTS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
    "same": (lambda x: x, lambda x: x),
    "transposed": (lambda x: x.T, lambda x: x.T),
    # [out, in, height, width] <-> [height, width, in, out]
    "torch_conv": (lambda x: x.transpose(2, 3, 1, 0), lambda x: x.transpose(3, 2, 0, 1)),
    # a 1 x 1 convolution there, a dense layer here
    "torch_squeezed": (lambda x: x[:, :, 0, 0].T, lambda x: x.T[:, :, None, None]),
    "tf_squeezed": (lambda x: x[0, 0], lambda x: x[None, None]),
    # [height, width, channels, 1] <-> [height, width, 1, channels]
    "tf_depthwise": (lambda x: x.swapaxes(2, 3), lambda x: x.swapaxes(2, 3)),
}


def flatten(tree: Mapping[Any, Any], prefix: TreePath = ()) -> Iterator[tuple[TreePath, Any]]:
    """The leaves of nested dicts with their paths; keys that are numbers become strings."""
    for key, value in tree.items():
        path = (*prefix, str(key))
        if isinstance(value, Mapping):
            yield from flatten(value, path)
        else:
            yield path, value


def unflatten(tree: Mapping[Any, Any], leaves: Mapping[TreePath, Any], prefix: TreePath = ()) -> dict[Any, Any]:
    """Nested dicts like `tree` with `leaves` in it; what `leaves` lacks stays."""
    filled = {}
    for key, value in tree.items():
        path = (*prefix, str(key))
        filled[key] = unflatten(value, leaves, path) if isinstance(value, Mapping) else leaves.get(path, value)
    return filled


def _listed(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def own_table(tree: Mapping[str, Any], prefix: TreePath = ()) -> list[TensorName]:
    """Our own names: the path of each array with dots, `prefix` (none of `tree`'s) after its first word."""
    return [TensorName(".".join((path[0], *prefix, *path[1:])), path, "same") for path, _ in flatten(tree)]


def port(
    table: Iterable[TensorName],
    tensors: Tensors,
    tree: Mapping[str, Any],
    source: str,
    *,
    extras: Callable[[str], bool] = lambda name: False,
) -> dict[str, Any]:
    """Nested dicts with the tensors of a file in them, each tensor and each array accounted for.

    Args:
        table: what belongs where.
        tensors: the file's, of any float dtype.
        tree: nested dicts whose leaves have a shape and dtype; all of them are to be filled.
        source: the file's name, for messages.
        extras: whether a name that the table lacks is known not to matter.

    Raises:
        PretrainedError: listing the tensors missing, left over or of another shape, and the arrays not filled.
    """
    table, ours = list(table), dict(flatten(tree))
    known = {entry.name for entry in table}
    filled, wrong = {}, []
    for entry in table:
        if entry.name not in tensors or entry.path not in ours:
            continue
        tensor, target = tensors[entry.name], ours[entry.path]
        ours_to_theirs, expected = LAYOUTS[entry.layout][1], np.broadcast_to(np.False_, target.shape)
        if tensor.shape == ours_to_theirs(expected).shape:
            filled[entry.path] = np.ascontiguousarray(LAYOUTS[entry.layout][0](tensor), target.dtype)
        else:
            wrong.append(f"{entry.name} is {list(tensor.shape)}, not {list(ours_to_theirs(expected).shape)}")
    problems = {
        "missing": [entry.name for entry in table if entry.name not in tensors],
        "left over": [name for name in tensors if name not in known and not extras(name)],
        "of another shape": wrong,
        "without a place": [".".join(entry.path) for entry in table if entry.path not in ours],
        "of ours not filled": [".".join(path) for path in ours.keys() - {entry.path for entry in table}],
    }
    told = "; ".join(f"{len(names)} {what}: {_listed(sorted(names))}" for what, names in problems.items() if names)
    if told:
        raise PretrainedError(f"{source}: the tensors do not fit the network: {told}")
    return unflatten(tree, filled)


def export(table: Iterable[TensorName], tree: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The tensors of a file in the table's names: `port` read backwards."""
    ours = dict(flatten(tree))
    return {entry.name: np.ascontiguousarray(LAYOUTS[entry.layout][1](np.asarray(ours[entry.path]))) for entry in table}
