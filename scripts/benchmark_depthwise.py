"""Time an EfficientNet's depthwise convolutions, each as XLA's grouped convolution and as a sum of shifted products.

    python scripts/benchmark_depthwise.py [--encoder b4] [--image-size 380] [--batch-size 8] [--dtype bfloat16]

Runs on the device that JAX finds. For each shape that the network has, with how often it has it: what one convolution
must move at the least (its images in and out), what it computes, and for both ways the time of it with its gradients,
in alternated turns. Ends with what the faster way of each shape would take on this device.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp

from dualcap_jax.models.encoders import efficientnet
from dualcap_jax.models.encoders.efficientnet import EfficientNetConfig
from dualcap_jax.ops.depthwise import grouped_conv, same_padding, shifted_conv

Shape = tuple[int, int, int, int]
"""Side in pixels, channels, kernel, stride."""


def shapes(config: EfficientNetConfig, image_size: int) -> Counter[Shape]:
    """Of all depthwise convolutions of an encoder, and how often each is there."""
    from flax import nnx

    found: Counter[Shape] = Counter()
    real = efficientnet.depthwise_conv

    def note(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
        found[x.shape[1], x.shape[3], kernel.shape[0], stride] += 1
        return real(x, kernel, stride)

    efficientnet.depthwise_conv = note
    try:
        images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.uint8)
        jax.eval_shape(lambda x: config.build(dtype=jnp.float32, rngs=nnx.Rngs(0)).vector(x), images)
    finally:
        efficientnet.depthwise_conv = real
    return found


def step(conv: Callable[..., jax.Array], stride: int) -> Callable[..., object]:
    """A convolution with both gradients."""
    return jax.jit(jax.grad(lambda x, kernel: conv(x, kernel, stride=stride).astype(jnp.float32).sum(), (0, 1)))


def seconds(ways: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of each way, in alternated turns."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, of_way in zip(ways, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(way())
            if turn:  # the first compiles
                of_way.append(time.perf_counter() - start)
    return [statistics.median(of_way) for of_way in times]


def main(arguments: Sequence[str]) -> int:
    """Print a table of the shapes."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="b4", help="b0 to b8")
    parser.add_argument("--image-size", type=int, default=380, help="side of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=8, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=5, help="turns that the median is of")
    args = parser.parse_args(arguments)
    dtype, total, best = jnp.dtype(args.dtype), [0.0, 0.0], 0.0
    print(
        f"{jax.devices()[0].device_kind}, {args.encoder} at {args.image_size} pixels, batch {args.batch_size}, {dtype}"
    )
    found = shapes(EfficientNetConfig(args.encoder), args.image_size)
    print("side  channels  kernel  stride  times     MB   GFLOP  grouped ms  shifted ms")
    for (side, channels, kernel, stride), count in sorted(found.items(), reverse=True):
        x = jax.random.normal(jax.random.key(0), (args.batch_size, side, side, channels), dtype)
        weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 1, channels), dtype)
        ways = [partial(step(conv, stride), x, weights) for conv in (grouped_conv, shifted_conv)]
        took = seconds(ways, args.repeats)
        output = args.batch_size * same_padding(side, kernel, stride)[0] ** 2 * channels
        moved, computed = (x.size + output) * dtype.itemsize / 1e6, 2 * kernel**2 * output / 1e9
        print(
            f"{side:4}  {channels:8}  {kernel:6}  {stride:6}  {count:5}  {moved:5.1f}  {computed:6.3f}  "
            f"{1e3 * took[0]:10.2f}  {1e3 * took[1]:10.2f}",
            flush=True,
        )
        total = [each + count * of_way for each, of_way in zip(total, took, strict=True)]
        best += count * min(took)
    print(f"all, with gradients: grouped {total[0]:.3f} s, shifted {total[1]:.3f} s, the faster of each {best:.3f} s")
    return 0


if __name__ == "__main__":
    cli.run(main)
