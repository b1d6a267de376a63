"""Images a second through the whole input pipeline, against a PyTorch DataLoader with PIL, alternated in one run.

    python scripts/benchmark_data.py [--images 640] [--threads 1 2] [--repeats 5]
    python scripts/benchmark_data.py --memory 20000

Makes its own set: drawn scenes with grain, 640 x 480 pixels, JPEGs of about 120 kB, and prepares it whole and as
squares of 380. Each side makes batches of 64 squares and tokens; the peer reads the files as they are, with as many
worker processes as we have threads. Ends with lines such as `jpeg 1 thread 1.41`: our images a second over the peer's.
"""

from dualcap_jax import cli  # first: it answers Ctrl-C while the rest is imported

# isort: split
import gc
import io
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from absl import logging
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dualcap_jax.data.config import DataConfig, ScenesConfig
from dualcap_jax.data.images import decode_image
from dualcap_jax.data.pipeline import pad_tokens, train_iterator
from dualcap_jax.data.prepared.writer import FolderCaptions, FolderConfig, Squares, prepare
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.sources.scenes import ScenesSource
from dualcap_jax.data.text import CaptionTokenizer, train_tokenizer
from dualcap_jax.data.transform import ImageTransform

BATCH, SIZE, LENGTH = 64, 380, 36
TRANSFORM = ImageTransform(SIZE, SIZE)


def make_folder(folder: Path, images: int) -> None:
    """JPEGs of photographs' size and weight, with five captions each."""
    scenes = ScenesSource(DataConfig(scenes=ScenesConfig(train=images, picture_size=96)), "train")
    grain = np.random.default_rng(0).normal(0, 14, (960, 640, 3))
    with (folder / "captions.jsonl").open("w") as file:
        for index in tqdm(range(images), "made", disable=None):
            drawn = Image.open(io.BytesIO(scenes[index].read_image())).convert("RGB").resize((640, 480))
            offset = index % 480
            pixels = np.clip(np.asarray(drawn) + grain[offset : offset + 480], 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=90)
            file.write(json.dumps({"image": f"{index}.jpg", "captions": scenes[index].captions}) + "\n")


class Pairs(Dataset):
    """The peer: (image, caption) pairs of a folder, by PIL."""

    def __init__(self, folder: Path, tokenizer: CaptionTokenizer):
        rows = [json.loads(line) for line in (folder / "captions.jsonl").open()]
        self.pairs = [(folder / row["image"], caption) for row in rows for caption in row["captions"]]
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        """Pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple:
        """Square, tokens, mask."""
        path, caption = self.pairs[index]
        image = Image.open(path).convert("RGB")
        width, height = image.size
        scale = SIZE / min(width, height)
        image = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BILINEAR)
        left, top = (image.width - SIZE) // 2, (image.height - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        tokens, mask = pad_tokens([self.tokenizer.encode(caption, LENGTH)], 1, LENGTH)
        return torch.from_numpy(np.array(image)), torch.from_numpy(tokens), torch.from_numpy(mask)


def images_a_second(batches: Iterator, images: int) -> float:
    """After a first batch, which starts what works in the background."""
    next(batches)
    count = images // BATCH
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - began)


def our_batches(root: Path, tokenizer: CaptionTokenizer, threads: int) -> Iterator:
    """Ours, from whatever lies there."""
    config = DataConfig(str(root), SIZE, max_length=LENGTH, read_threads=threads, validation_fraction=0)
    return train_iterator(open_source(config, "train"), tokenizer, config, BATCH, 0)


def peer_batches(folder: Path, tokenizer: CaptionTokenizer, workers: int) -> Iterator:
    """The peer's."""
    return iter(DataLoader(Pairs(folder, tokenizer), BATCH, shuffle=True, num_workers=workers))


def shares(folder: Path, tokenizer: CaptionTokenizer) -> None:
    """Print what each stage takes, in one thread."""
    names = [f"{index}.jpg" for index in range(128)]
    seconds = dict.fromkeys(("read", "decode", "resize and crop", "tokens", "batch"), 0.0)

    def timed(stage: str, function: Callable[..., T], *args: object) -> T:
        began = time.perf_counter()
        result = function(*args)
        seconds[stage] += time.perf_counter() - began
        return result

    squares = []
    for name in names:
        data = timed("read", (folder / name).read_bytes)
        squares.append(timed("resize and crop", TRANSFORM, timed("decode", decode_image, data)))
        timed("tokens", tokenizer.encode, "two red squares left of a blue ring", LENGTH)
    rows = np.stack(squares)  # memory of a batch before
    timed("batch", lambda: np.stack(squares, out=rows))
    total = sum(seconds.values())
    for stage, took in seconds.items():
        print(f"  {stage}: {1000 * took / len(names):.2f} ms an image, {took / total:.0%}")
    rate = len(names) / total
    print(f"  on paper, at {rate:.0f} images/s a core: 16 cores {16 * rate:,.0f}, 64 cores {64 * rate:,.0f} images/s")


def memory(root: Path, tokenizer: CaptionTokenizer, images: int) -> None:
    """Print the process's memory as images go by."""
    batches = our_batches(root, tokenizer, 2)
    for count in range(0, images + 1, BATCH):
        next(batches)
        if count % (BATCH * (images // BATCH // 10 or 1)) == 0:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            print(f"{count:,} images: {pages * resource.getpagesize() / 2**20:,.0f} MiB", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Alternate the two sides."""
    parser = cli.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=640, help="that each turn times, and that the set holds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", type=int, default=0, help="only read so many images and print the memory")
    args = parser.parse_args(arguments)
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory) / "jpeg"
        roots = {"jpeg": folder}
        folder.mkdir()
        make_folder(folder, args.images)
        data = DataConfig(validation_fraction=0)
        for name, squares in (("records", None), ("squares", Squares(TRANSFORM))):
            config = FolderConfig(name=name, squares=squares, data=data)
            roots[name] = prepare(
                FolderCaptions(config=config, data_dir=f"{directory}/{name}", file_format="array_record"), folder
            )
        tokenizer = train_tokenizer(iterate_captions(open_source(DataConfig(str(folder)), "train")), 512)
        for name, root in roots.items():
            size = sum(path.stat().st_size for path in root.iterdir())
            print(f"{name}: {size / args.images / 1000:.0f} kB an image")
        if args.memory:
            memory(roots["squares"], tokenizer, args.memory)
            return 0
        print("one thread, from the files:")
        shares(folder, tokenizer)
        ratios = {}
        for threads in args.threads:
            rates: dict[str, list[float]] = {"peer": [], "jpeg": [], "records": [], "squares": []}
            for _ in range(args.repeats):
                for side, measured in rates.items():
                    if side == "peer":
                        batches = peer_batches(folder, tokenizer, threads)
                    else:
                        batches = our_batches(roots[side], tokenizer, threads)
                    measured.append(images_a_second(batches, args.images))
                    del batches
                    gc.collect()
            medians = {side: statistics.median(measured) for side, measured in rates.items()}
            listed = ", ".join(f"{side} {rate:.0f}" for side, rate in medians.items())
            print(f"{threads} thread{'s' * (threads > 1)}: images/s: {listed}", flush=True)
            for side in ("jpeg", "records", "squares"):
                pairs = [ours / peer for ours, peer in zip(rates[side], rates["peer"], strict=True)]
                ratios[f"{side} {threads} thread{'s' * (threads > 1)}"] = statistics.median(pairs)
    for name, ratio in ratios.items():
        print(f"{name} {ratio:.2f}")
    return 0


if __name__ == "__main__":
    cli.run(main)
