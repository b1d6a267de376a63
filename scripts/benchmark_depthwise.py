"""Time an EfficientNet's depthwise convolutions, each as XLA's grouped convolution and as a sum of shifted products.

    python scripts/benchmark_depthwise.py [--encoder b4] [--image-size 380] [--batch-size 8] [--dtype bfloat16]

Runs on the device that JAX finds. For each shape that the network has, with how often it has it: what one convolution
must move at the least (its images in and out), what it computes, and the milliseconds that both ways take for the
convolution, for its gradient by the images and for that by the kernel, in alternated turns. Ends with what both ways
take of all the network, and what the faster one of each shape and part would.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import jax.numpy as jnp
from jax.stages import Compiled

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


def compiled(conv: Callable[..., jax.Array], shape: Shape, batch: int, dtype: jnp.dtype) -> list[Compiled]:
    """A convolution, its gradient by the images and that by the kernel: of the images, the kernel and a gradient."""
    side, channels, k, stride = shape
    conv = partial(conv, stride=stride)
    x = jax.ShapeDtypeStruct((batch, side, side, channels), dtype)
    kernel = jax.ShapeDtypeStruct((k, k, 1, channels), dtype)
    gradient = jax.eval_shape(conv, x, kernel)

    def by(argument: int) -> Callable[..., jax.Array]:
        return lambda x, kernel, gradient: jax.vjp(conv, x, kernel)[1](gradient)[argument]

    parts = (lambda x, kernel, _: conv(x, kernel)), by(0), by(1)
    return [jax.jit(part, keep_unused=True).lower(x, kernel, gradient).compile() for part in parts]


def seconds(ways: Sequence[Callable[[], object]], repeats: int, calls: int) -> list[float]:
    """Median time of a call of each way, in alternated turns of so many calls."""
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, of_way in zip(ways, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready([way() for _ in range(calls)])
            if turn:  # the first warms up
                of_way.append((time.perf_counter() - start) / calls)
    return [statistics.median(of_way) for of_way in times]


def main(arguments: Sequence[str]) -> int:
    """Print a table of the shapes."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--encoder", default="b4", help="b0 to b8")
    parser.add_argument("--image-size", type=int, default=380, help="side of the images, in pixels")
    parser.add_argument("--batch-size", type=int, default=8, help="images")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--repeats", type=int, default=5, help="turns that the median is of")
    parser.add_argument("--calls", type=int, default=1, help="calls of a turn; more hide what starting a call costs")
    args = parser.parse_args(arguments)
    dtype = jnp.dtype(args.dtype)
    print(
        f"{jax.devices()[0].device_kind}, {args.encoder} at {args.image_size} pixels, batch {args.batch_size}, {dtype}"
    )
    print(f"{'':46}  {'grouped, ms':>23}  {'shifted, ms':>23}")
    print("side  channels  kernel  stride  times     MB   GFLOP" + "  convolve  by image  by kernel" * 2)
    total, best = [0.0] * 6, [0.0] * 3
    found = sorted(shapes(EfficientNetConfig(args.encoder), args.image_size).items(), reverse=True)
    with ThreadPoolExecutor() as pool:
        pending = [
            pool.submit(compiled, conv, shape, args.batch_size, dtype)
            for shape, _ in found
            for conv in (grouped_conv, shifted_conv)
        ]
        ways = [way.result() for way in pending]
    for ((side, channels, kernel, stride), count), grouped, shifted in zip(found, ways[::2], ways[1::2], strict=True):
        output = same_padding(side, kernel, stride)[0]
        of = (
            jax.random.normal(jax.random.key(0), (args.batch_size, side, side, channels), dtype),
            jax.random.normal(jax.random.key(1), (kernel, kernel, 1, channels), dtype),
            jax.random.normal(jax.random.key(2), (args.batch_size, output, output, channels), dtype),
        )
        took = seconds([partial(part, *of) for part in grouped + shifted], args.repeats, args.calls)
        moved, computed = (of[0].size + of[2].size) * dtype.itemsize / 1e6, 2 * kernel**2 * of[2].size / 1e9
        told = "".join(f"  {1e3 * each:{width}.2f}" for each, width in zip(took, (8, 8, 9) * 2, strict=True))
        print(
            f"{side:4}  {channels:8}  {kernel:6}  {stride:6}  {count:5}  {moved:5.1f}  {computed:6.3f}{told}",
            flush=True,
        )
        total = [each + count * of_way for each, of_way in zip(total, took, strict=True)]
        best = [each + count * min(pair) for each, pair in zip(best, zip(took[:3], took[3:], strict=True), strict=True)]
    for name, times in (("grouped", total[:3]), ("shifted", total[3:]), ("the faster of each", best)):
        print(f"{name}: {sum(times):.4f} s, of it " + ", ".join(f"{each:.4f}" for each in times))
    return 0


if __name__ == "__main__":
    cli.run(main)
