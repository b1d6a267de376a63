"""Caption many drawn images with the command, killed twice on the way: is each there once, how fast, in what memory?

    python scripts/benchmark_bulk.py runs/NAME [--images 10000] [--num-beams 5] [--batch-size 64] [--rounds 5]

The command is killed after a tenth and after a third of the images, and begun again. Prints whether each image is there
exactly once, and the memory of the last piece, in MiB, after a quarter and at the end. Then captions a third of the
images in turns, from files into a file and, decoded before, by the search alone: prints both rates and their ratio.
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
from statistics import median

from dualcap_jax import Captioner
from dualcap_jax.bulk.captioning import caption_into, rows_here
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


def rates(
    captioner: Captioner, paths: Sequence[Path], out: Path, decoding: DecodingConfig, rounds: int
) -> list[tuple[float, float]]:
    """Images a second, in each round: from files into a file, and of the search alone."""
    images = [captioner.prepare(path) for path in paths]
    rows, found = rows_here(captioner, decoding, explain=False), []
    list(captioner.caption_prepared(images[: decoding.batch_size], decoding))  # compiles
    for _ in range(rounds):
        began = time.perf_counter()
        caption_into(out, rows, paths, {}, {}, overwrite=True)
        written = time.perf_counter()
        list(captioner.caption_prepared(images, decoding))
        found.append((len(paths) / (written - began), len(paths) / (time.perf_counter() - written)))
    return found


def main(arguments: Sequence[str]) -> int:
    """Print what came of it; returns 1 where an image is missing, or there twice."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", help="run directory, of scenes")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--num-beams", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="images searched together")
    parser.add_argument("--rounds", type=int, default=5, help="turns of the comparison")
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
                seen.append((lines_of(part), resident(process.pid)))
            time.sleep(0.5)
        names = [Path(json.loads(line)["image"]).stem for line in out.read_text().splitlines()]
        once = names == [f"{index:08}" for index in range(args.images)]
        print(f"each image once, in order: {'yes' if once else 'NO'}")

        start = seen[0][0]
        steady = [memory for lines, memory in seen if lines > start + (args.images - start) // 10]
        print(f"memory: {steady[len(steady) // 4]:.0f} MiB after a quarter, {steady[-2]:.0f} at the end", flush=True)
        decoding = DecodingConfig(num_beams=args.num_beams, batch_size=args.batch_size)
        paths = sorted(folder.iterdir())[: args.images // 3]
        bulk, alone = zip(*rates(Captioner.load(args.run), paths, out, decoding, args.rounds), strict=True)
        ratios = [into_file / search for into_file, search in zip(bulk, alone, strict=True)]
        print(f"{median(bulk):.0f} images a second, the search alone {median(alone):.0f}: ", end="")
        print(f"ratio {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0 if once else 1


if __name__ == "__main__":
    cli.run(main)
