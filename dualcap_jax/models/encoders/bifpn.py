"""BiFPN: levels of feature maps, each of half the one before, that learn from each other both ways.

EfficientDet (Tan et al. 2020, section 3), with the details of the authors' code: nearest upsampling, max pooling, batch
norm after each change of channels, and biases before batch norms.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer
from jaxtyping import Array, Float

from dualcap_jax.models.encoders.efficientnet import BatchNorm
from dualcap_jax.models.encoders.encoder import Maps
from dualcap_jax.models.remat import rematerialised
from dualcap_jax.ops.dense import dense
from dualcap_jax.ops.depthwise import depthwise_conv

Activation = Callable[[Array], Array]

glorot = nnx.initializers.glorot_uniform()


class SeparableConv(nnx.Module):
    """A depthwise 3 x 3 convolution, then a 1 x 1 one with bias."""

    def __init__(self, inputs: int, outputs: int, init: Initializer, rngs: nnx.Rngs, bias: float = 0.0):
        # [k, k, channels of one group, groups] is drawn as one of a channel to a channel
        kernels = jax.vmap(lambda key: init(key, (3, 3, 1, 1))[..., 0], out_axes=-1)
        self.depthwise = nnx.Param(kernels(jax.random.split(rngs.params(), inputs)))
        self.pointwise = nnx.Param(init(rngs.params(), (1, 1, inputs, outputs)))
        self.bias = nnx.Param(jnp.full(outputs, bias, jnp.float32))

    def __call__(self, x: Float[Array, "batch height width inputs"]) -> Float[Array, "batch height width outputs"]:
        """Both."""
        x = depthwise_conv(x, self.depthwise[...].astype(x.dtype), 1)
        return dense(x, self.pointwise[...][0, 0].astype(x.dtype), 0) + self.bias[...].astype(x.dtype)


class Channels(nnx.Module):
    """A 1 x 1 convolution with bias, and a batch norm: maps of other channels."""

    def __init__(self, inputs: int, outputs: int, momentum: float, rngs: nnx.Rngs):
        self.kernel = nnx.Param(glorot(rngs.params(), (1, 1, inputs, outputs)))
        self.bias = nnx.Param(jnp.zeros(outputs))
        self.norm = BatchNorm(outputs, momentum)

    def __call__(
        self, x: Float[Array, "batch height width inputs"], train: bool
    ) -> Float[Array, "batch height width outputs"]:
        """Both; in training by the batch's statistics, which are learnt."""
        x = dense(x, self.kernel[...][0, 0].astype(x.dtype), 0) + self.bias[...].astype(x.dtype)
        return self.norm(x, train)


def halved(x: Maps) -> Maps:
    """The largest of each 3 x 3 places, at every second one."""
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")


def doubled(x: Maps, height: int, width: int) -> Maps:
    """Each place four times; of odd sides the last row and column are left out."""
    return x.repeat(2, 1).repeat(2, 2)[:, :height, :width]


def nodes(levels: int) -> Iterator[tuple[int, tuple[tuple[int, int], ...]]]:
    """Of each node of a cell its level, and what it fuses: level and number of each of the maps.

    Levels count from 0, the finest; maps too: first those that the cell takes, then those of its nodes. The last
    `levels` maps are what the cell gives.
    """
    found = [[(level, level)] for level in range(levels)]  # maps of each level
    number = count(levels)
    for level in reversed(range(levels - 1)):
        yield level, (found[level][-1], found[level + 1][-1])
        found[level].append((level, next(number)))
    for level in range(1, levels):
        yield level, (*found[level], found[level - 1][-1])
        found[level].append((level, next(number)))


class Node(nnx.Module):
    """Fuses maps of its own level and of a neighbouring one, then looks around each place.

    Args:
        inputs: channels of each of the maps, and how many levels coarser than the node they are: -1, 0 or 1; the first
            are of its own level.
        outputs: channels.
        activation: before the convolution.
        is_weighted: whether the maps have learnt weights (fast normalised fusion, equation 2), or are summed.
        momentum: of batch norms.
        rngs: gives the initial parameters.
    """

    def __init__(
        self,
        inputs: Sequence[tuple[int, int]],
        outputs: int,
        activation: Activation,
        is_weighted: bool,
        momentum: float,
        rngs: nnx.Rngs,
    ):
        self.coarser = tuple(coarser for _, coarser in inputs)
        self.activation = activation
        self.channels = nnx.List(
            [Channels(count, outputs, momentum, rngs) if count != outputs else None for count, _ in inputs]
        )
        self.weights = nnx.Param(jnp.ones(len(inputs))) if is_weighted else None
        self.convolution = SeparableConv(outputs, outputs, glorot, rngs)
        self.norm = BatchNorm(outputs, momentum)

    def __call__(self, maps: Sequence[Maps], train: bool) -> Maps:
        """The node's maps, of its inputs'."""
        size = maps[0].shape[1:3]
        resampled = []
        for x, channels, coarser in zip(maps, self.channels, self.coarser, strict=True):
            if channels is not None:
                x = channels(x, train)
            resampled.append(doubled(x, *size) if coarser > 0 else halved(x) if coarser < 0 else x)
        if self.weights is not None:
            weights = jax.nn.relu(self.weights[...])
            weights = (weights / (weights.sum() + 1e-4)).astype(maps[0].dtype)
            resampled = [x * weight for x, weight in zip(resampled, weights, strict=True)]
        return self.norm(self.convolution(self.activation(sum(resampled[1:], resampled[0]))), train)


class BiFPN(nnx.Module):
    """The levels of a backbone, coarser ones made of its last, and cells over all of them.

    Args:
        inputs: channels of the backbone's levels, the finest first.
        levels: to make of them, at least as many.
        outputs: channels.
        cells: of nodes, one after the other.
        activation, is_weighted, momentum, rngs: as of `Node`.
        remat: what the backward pass recomputes of each node, as `EncoderConfig.remat`.
    """

    def __init__(
        self,
        inputs: Sequence[int],
        levels: int,
        outputs: int,
        cells: int,
        *,
        activation: Activation,
        is_weighted: bool,
        momentum: float,
        remat: str,
        rngs: nnx.Rngs,
    ):
        self.levels, self.remat = levels, remat
        self.nodes = tuple(nodes(levels))
        has_other = levels > len(inputs) and inputs[-1] != outputs
        self.channels = Channels(inputs[-1], outputs, momentum, rngs) if has_other else None

        def cell(taken: list[int]) -> list[Node]:
            counts = [*taken, *[outputs] * len(self.nodes)]
            each = [[(counts[number], of - level) for of, number in fused] for level, fused in self.nodes]
            return [Node(fused, outputs, activation, is_weighted, momentum, rngs) for fused in each]

        first = [*inputs, *[outputs] * (levels - len(inputs))]
        every = [first, *[[outputs] * levels] * (cells - 1)]
        self.cells = nnx.List([nnx.List(cell(taken)) for taken in every])

    def __call__(self, maps: Sequence[Maps], train: bool) -> list[Maps]:
        """All levels, of those of the backbone."""
        maps = list(maps)
        last = maps[-1] if self.channels is None else self.channels(maps[-1], train)
        while len(maps) < self.levels:
            last = halved(last)
            maps.append(last)
        run = rematerialised(Node.__call__, self.remat, 2)
        for cell in self.cells:
            for node, (_, fused) in zip(cell, self.nodes, strict=True):
                maps.append(run(node, [maps[number] for _, number in fused], train))
            maps = maps[-self.levels :]
        return maps
