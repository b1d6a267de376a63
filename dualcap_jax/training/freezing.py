"""Which parameters are trained: all but those of frozen parts, and of these what is unfrozen."""

from collections.abc import Callable, Iterator
from typing import Any

from flax import nnx

from dualcap_jax.errors import require
from dualcap_jax.fields import suggestion
from dualcap_jax.models.encoders import EncoderConfig
from dualcap_jax.models.encoders.efficientnet import BatchNorm
from dualcap_jax.models.variables import Variables
from dualcap_jax.training.config import BATCH_NORM, TrainingConfig

Tree = dict[Any, Any]
"""Nested dicts of arrays."""
Place = tuple[str, ...]
"""Of an array or a module in the network, such as ("encoder", "blocks", "3", "project_norm")."""


def partition(model: Variables, training: TrainingConfig) -> tuple[Tree, Tree]:
    """The parameters that are trained, and those that are not.

    Raises:
        ConfigError: `training.unfreeze` names what there is not.
    """
    params = model["params"]
    frozen = {part: params[part] for part in training.freeze}
    norms = {place[:-1] for place in _places(model["batch_stats"]) if (place[0], place[-1]) == ("encoder", "var")}
    there = {place[:depth] for place in _places(frozen) for depth in range(2, len(place) + 1)}
    known = {".".join(place): {place} for place in there} | ({BATCH_NORM: norms} if norms else {})
    unfrozen: set[Place] = set()
    for name in training.unfreeze:
        message = f"nothing in the network has that name{suggestion(name, known)}"
        require(name in known, "training.unfreeze", name, message)
        unfrozen |= known[name]

    def is_unfrozen(place: Place) -> bool:
        return any(place[:depth] in unfrozen for depth in range(2, len(place) + 1))

    trained = {part: tree for part, tree in params.items() if part not in training.freeze}
    return trained | _chosen(frozen, is_unfrozen), _chosen(frozen, lambda place: not is_unfrozen(place))


def joined(under: Tree, over: Tree) -> Tree:
    """Nested dicts with the arrays of both; where both have one, with the latter's."""
    return under | {
        key: joined(under[key], value) if isinstance(value, dict) and key in under else value
        for key, value in over.items()
    }


def unfreeze_statistics(network: nnx.Module, encoder: EncoderConfig, training: TrainingConfig) -> None:
    """Let the batch norms that are unfrozen normalise by the batch, and learn its statistics, as in training.

    Not where the encoder's configuration freezes them, nor in self-critical training, which runs as in evaluation.
    """
    if training.objective == "self_critical" or getattr(encoder, "batch_norm", "train") == "frozen":
        return
    for place, module in nnx.iter_modules(network):
        names = {".".join(map(str, place[:depth])) for depth in range(1, len(place) + 1)} | {BATCH_NORM}
        if isinstance(module, BatchNorm) and names & set(training.unfreeze):
            module.unfrozen = True


def _places(tree: Tree, above: Place = ()) -> Iterator[Place]:
    for key, value in tree.items():
        place = (*above, str(key))
        yield from _places(value, place) if isinstance(value, dict) else [place]


def _chosen(tree: Tree, is_chosen: Callable[[Place], bool], above: Place = ()) -> Tree:
    """The arrays at chosen places, without dicts that would be empty."""
    found = {}
    for key, value in tree.items():
        place = (*above, str(key))
        if isinstance(value, dict):
            if below := _chosen(value, is_chosen, place):
                found[key] = below
        elif is_chosen(place):
            found[key] = value
    return found
