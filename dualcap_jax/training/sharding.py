"""One mesh of devices: batches are divided over all of it, parameters and the optimizer's state over its axis `fsdp`.

What runs on it is written for one device; XLA's partitioner adds what the devices must tell each other.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dualcap_jax.errors import require
from dualcap_jax.fields import check_types

Tree = TypeVar("Tree")

AXES = ("data", "fsdp")
"""The mesh's axes; a batch is divided over both."""

LEAST = 4096
"""Numbers that an array must have to be divided: fetching a small one costs more than keeping it."""


@dataclass(frozen=True)
class ShardingConfig:
    """How training is shared out over devices. A run resumes on any other number of them."""

    data: int = 0
    """Groups of devices that the images of a batch are divided among. 0: as many as there are devices for."""
    fsdp: int = 1
    """Devices of a group. Each keeps its share of parameters and optimizer state and fetches the rest when it is needed
    (fully sharded data parallelism). 1: each device keeps all of them."""

    def __post_init__(self) -> None:
        check_types(self, "sharding.")
        require(self.data >= 0, "sharding.data", self.data, "must be at least 0")
        require(self.fsdp >= 1, "sharding.fsdp", self.fsdp, "must be at least 1")


def make_mesh(
    config: ShardingConfig, batch_size: int, accumulate: int, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh of all processes' devices; of one process the first so many, where the config names fewer.

    Args:
        config: its sizes.
        batch_size: images of a batch of all devices together.
        accumulate: parts that a batch is computed in.
        devices: of the mesh. None: those that are there.

    Raises:
        ConfigError: there are not as many devices, or a part of a batch can't be divided among them.
    """
    devices = jax.devices() if devices is None else devices
    there = len(devices)
    asked = (config.data or max(1, there // config.fsdp)) * config.fsdp
    together = jax.process_count() > 1
    fits = asked == there if together else asked <= there
    name, value = ("sharding.data", config.data) if config.data else ("sharding.fsdp", config.fsdp)
    most = f"must be {there}, for all processes to take part" if together else f"must be at most {there}"
    require(fits, name, value, f"sharding.data x sharding.fsdp is {asked}, of {there} devices: it {most}")
    parts = asked * accumulate
    message = f"must be a multiple of {asked} devices x training.accumulate={accumulate}, such as "
    message += f"{math.ceil(batch_size / parts) * parts}; or give fewer devices with sharding.data"
    require(batch_size % parts == 0, "training.batch_size", batch_size, message)
    return Mesh(np.array(devices[:asked]).reshape(-1, config.fsdp), AXES)


def sharding_of(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    """How an array of the state lies: along its longest axis that the devices of a group divide, or whole on each."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis, length in enumerate(shape) if length % size == 0]
    if size == 1 or not axes or math.prod(shape) < LEAST:
        return NamedSharding(mesh, PartitionSpec())
    longest = max(axes, key=lambda axis: shape[axis])
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))


def abstract(mesh: Mesh | None, tree: Any) -> Any:
    """Shapes and dtypes of a state, with how its arrays lie."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(mesh, leaf.shape) if mesh else None)

    return jax.tree.map(of, tree)


def place(mesh: Mesh, tree: Tree) -> Tree:
    """Lay a state out; each process has all of it."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, sharding_of(mesh, leaf.shape)), tree)


def keep_placed(mesh: Mesh | None, tree: Tree) -> Tree:
    """The same within a compiled step."""
    if mesh is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, sharding_of(mesh, leaf.shape)), tree)


def whole(mesh: Mesh | None, tree: Tree) -> Tree:
    """Within a compiled step: each device has all of every array, for as long as it is needed."""
    if mesh is None:
        return tree
    everywhere = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, everywhere), tree)


def known(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """A block of a compiled step in which an operation that shares itself out finds the mesh."""
    return jax.sharding.use_abstract_mesh(mesh.abstract_mesh) if mesh is not None else nullcontext()


def divide(mesh: Mesh | None, batch: dict[str, Any], accumulate: int = 1) -> dict[str, Any]:
    """A batch as a compiled step takes it.

    Args:
        mesh: that its examples are divided over. None: one device.
        batch: arrays of this process's examples.
        accumulate: parts that are computed one after the other. If there are several, they become the first axis.

    Returns:
        Arrays of all processes' examples.
    """
    if accumulate > 1:  # [batch, ...] -> [parts, batch // parts, ...]
        batch = {name: values.reshape(accumulate, -1, *values.shape[1:]) for name, values in batch.items()}
    if mesh is None:
        return batch
    sharding = batch_sharding(mesh, accumulate)
    return {name: jax.make_array_from_process_local_data(sharding, values) for name, values in batch.items()}


def batch_sharding(mesh: Mesh, accumulate: int = 1) -> NamedSharding:
    """How the arrays of a batch lie that `divide` gives."""
    return NamedSharding(mesh, PartitionSpec(*[None] * (accumulate > 1), AXES))


def local_mesh(mesh: Mesh) -> Mesh:
    """This process's devices of a mesh: the mesh itself where there is one process."""
    own = np.array(mesh.local_devices).reshape(-1, 1)
    return mesh if own.size == mesh.size else Mesh(own, AXES)


def local_copy(mesh: Mesh, own: Mesh, tree: Tree) -> Tree:
    """Arrays laid out on a mesh, as this process can use them alone, on its `local_mesh`."""
    if own is mesh:
        return tree
    everywhere, here = (NamedSharding(each, PartitionSpec()) for each in (mesh, own))

    def copy(leaf: jax.Array) -> jax.Array:
        parts = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, here, parts)

    return jax.tree.map(copy, jax.jit(lambda tree: tree, out_shardings=everywhere)(tree))


def describe(mesh: Mesh, state: Any) -> str:
    """A table of how the arrays of a state (shapes suffice) lie on a mesh, and what each device keeps of them."""
    rows, kept, total = [("array", "shape", "divided over", "MB a device")], 0, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        sharding = sharding_of(mesh, leaf.shape)
        of_device = math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        kept, total = kept + of_device, total + leaf.size * leaf.dtype.itemsize
        divided = next((f"axis {axis}" for axis, name in enumerate(sharding.spec) if name), "-")
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        rows.append((name, "x".join(map(str, leaf.shape)) or "1", divided, f"{of_device / 1e6:.3f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    sizes = ", ".join(f"{name} {size}" for name, size in mesh.shape.items())
    of_all = f"mesh: {sizes}; each device keeps {kept / 1e6:.1f} MB of {total / 1e6:.1f} MB"
    return "\n".join([*lines, of_all])
