"""Caption many drawn images with the command, killed twice on the way: is each there once, how fast, in what memory?

    python scripts/benchmark_bulk.py runs/NAME [--images 10000] [--num-beams 5] [--batch-size 64]

The command is killed after a tenth and after a third of the images, and begun again. Prints whether each image is there
exactly once; the rate of its last piece over that of the search alone, of images decoded before; and its memory after a
quarter and at the end of that piece, in MiB.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dualcap_jax import Captioner
from dualcap_jax.config import load_run
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.decoding.config import DecodingConfig


def lines_of(path: Path) -> int:
    """Lines of a file, 0 where it is not there."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def resident(process: int) -> float:
    """Memory of a process, in MiB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def search_alone(captioner: Captioner, images: Sequence[np.ndarray], decoding: DecodingConfig) -> float:
    """Images a second."""
    list(captioner.caption_prepared(images[: decoding.batch_size], decoding))
    began = time.perf_counter()
    list(captioner.caption_prepared(images, decoding))
    return len(images) / (time.perf_counter() - began)


def main(arguments: Sequence[str]) -> int:
    """Print what came of it; returns 1 where an image is missing, or there twice."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory, of scenes")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--num-beams", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="images searched together")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "images"
        folder.mkdir()
        data = load_run(args.run).data
        source = ScenesSource(replace(data, scenes=replace(data.scenes, train=args.images)), "train")
        for index in range(args.images):
            (folder / f"{index:08}.png").write_bytes(source[index].read_image())
        out, part = Path(name) / "out.jsonl", Path(name) / "out.jsonl.part"
        options = f"--decoding.num-beams {args.num_beams} --decoding.batch-size {args.batch_size}".split()
        command = [sys.executable, "-m", "dualcap_jax.caption", args.run, str(folder), "--out", str(out), *options]
        for share in (10, 3):
            process = subprocess.Popen(command)
            while lines_of(part) < args.images // share:
                time.sleep(0.1)
            process.kill()
            process.wait()
            print(f"killed after {lines_of(part) - 1:,} images", flush=True)
        process, seen = subprocess.Popen(command), []
        while process.poll() is None:
            if part.exists():
                seen.append((time.perf_counter(), lines_of(part), resident(process.pid)))
            time.sleep(0.5)
        names = [Path(json.loads(line)["image"]).stem for line in out.read_text().splitlines()]
        once = names == [f"{index:08}" for index in range(args.images)]
        print(f"each image once, in order: {'yes' if once else 'NO'}")

        start = seen[0][1]
        steady = [each for each in seen if each[1] > start + (args.images - start) // 10]
        (began, first, _), (ended, last, memory) = steady[0], steady[-2]
        rate, quarter = (last - first) / (ended - began), steady[len(steady) // 4][2]
        captioner = Captioner.load(args.run)
        images = [
            captioner.prepare(source[index].read_image()) for index in range(min(args.images, 20 * args.batch_size))
        ]
        alone = search_alone(captioner, images, DecodingConfig(num_beams=args.num_beams, batch_size=args.batch_size))
        print(f"{rate:.1f} images a second; the search alone {alone:.1f}; ratio {rate / alone:.2f}")
        print(f"memory: {quarter:.0f} MiB after a quarter, {memory:.0f} at the end")
    return 0 if once else 1


if __name__ == "__main__":
    cli.run(main)
