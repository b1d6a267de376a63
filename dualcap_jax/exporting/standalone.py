"""Caption images with an exported captioner: python caption.py IMAGE...

Lies in every folder that `dualcap export` wrote as stablehlo or onnx. It needs what is there, numpy, Pillow,
tokenizers, and jax with flatbuffers, or onnxruntime: nothing of dualcap_jax, and none of the network's code.

    from caption import load_exported

    captioner = load_exported("FOLDER")
    print(captioner(["dog.jpg", "cat.png"]))
"""

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from tokenizers import Tokenizer

VERSION = 1
"""Of the folder's layout."""


class ExportedError(ValueError):
    """A folder that is no exported captioner, or not whole; the message says what to do."""


class Caption(NamedTuple):
    """One caption of one image."""

    text: str
    score: float
    """What captions are ranked by: the log-probability / generated tokens ** length_penalty."""
    log_prob: float
    """Log-probability of the whole caption after the prompt, in nats."""


class ExportedCaptioner:
    """A network with its tokenizer.

    Args:
        directory: that `dualcap export` wrote.

    Raises:
        ExportedError: it is not whole, or of another version.
    """

    def __init__(self, directory: str | Path):
        directory = Path(directory)
        try:
            self.manifest: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
            found = self.manifest["format"], self.manifest["version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise ExportedError(f"{directory}: no exported captioner (no readable manifest.json in it)") from None
        if found[0] not in BACKENDS or found[1] != VERSION:
            known = " and ".join(f"{name} {VERSION}" for name in BACKENDS)
            raise ExportedError(f"{directory}: is {found[0]} {found[1]}, and this reads {known}")
        files = {name: _read(directory / name, digest) for name, digest in self.manifest["files"].items()}
        self._tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        self._backend = BACKENDS[found[0]](self.manifest, files)

    def __call__(self, images: Any) -> Any:
        """Caption images.

        Args:
            images: a path, the bytes of an image file, a PIL image, or an array uint8 [height, width, 3]; or several.

        Returns:
            Its `Caption`, or a list of them.
        """
        alone = isinstance(images, str | Path | bytes | Image.Image | np.ndarray)
        captions = list(self.captions([images] if alone else images))
        return captions[0] if alone else captions

    def captions(self, images: Iterable[Any]) -> Iterator[Caption]:
        """Captions of images as they come, batch by batch."""
        pending = map(self.prepare, images)
        while chunk := list(islice(pending, self._backend.batch_size)):
            for tokens, score, log_prob in self._backend.search(np.stack(chunk)):
                yield Caption(self._text(tokens[1:]), score, log_prob)

    def _text(self, ids: list[int]) -> str:
        if self.manifest["end_id"] in ids:
            ids = ids[: ids.index(self.manifest["end_id"])]
        return self._tokenizer.decode(ids, skip_special_tokens=False).strip()

    def prepare(self, image: Any) -> np.ndarray:
        """What the network sees of an image, uint8 [size, size, 3]: its middle, resized."""
        picture = _upright_rgb(image)
        size, resize = self.manifest["image"]["size"], self.manifest["image"]["resize"]
        (width, height), kind = picture.size, self.manifest["image"]["interpolation"].upper()
        longer = int(resize * max(width, height) / min(width, height))
        new_width, new_height = (resize, longer) if width <= height else (longer, resize)
        left, top = round((new_width - size) / 2), round((new_height - size) / 2)
        across, down = width / new_width, height / new_height
        box = (left * across, top * down, min((left + size) * across, width), min((top + size) * down, height))
        if (width, height) == (new_width, new_height) == (size, size):
            return np.asarray(picture)
        return np.asarray(picture.resize((size, size), Image.Resampling[kind], box=box))


Found = tuple[list[int], float, float]
"""Tokens, the first and the last included; score; log-probability."""


class Compiled:
    """StableHLO, run by jax."""

    def __init__(self, manifest: dict[str, Any], files: dict[str, bytes]):
        import jax
        from jax import export

        self._weights = jax.device_put(dict(_tensors(files["weights.safetensors"])))
        self._functions = {
            int(size): jax.jit(export.deserialize(bytearray(files[name])).call)
            for size, name in manifest["functions"].items()
        }
        self.batch_size = max(self._functions)

    def search(self, images: np.ndarray) -> Iterator[Found]:
        """The best caption of each image, uint8 [batch, size, size, 3]."""
        size = min(size for size in self._functions if size >= len(images))
        filled = np.concatenate([images, np.repeat(images[-1:], size - len(images), 0)])
        found = {name: np.asarray(each)[:, 0] for name, each in self._functions[size](self._weights, filled).items()}
        for row in range(len(images)):
            tokens = found["tokens"][row, : found["lengths"][row]].tolist()
            yield tokens, float(found["scores"][row]), float(found["token_log_probs"][row].sum(dtype=np.float64))


class Graphs:
    """ONNX, run by onnxruntime; the search is here, as transformers' `generate` has it."""

    batch_size = 1

    def __init__(self, manifest: dict[str, Any], files: dict[str, bytes]):
        import onnxruntime

        self._manifest = manifest
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors
        names = ("encoder", "language", "merger")
        self._run = {name: _runner(onnxruntime.InferenceSession(files[f"{name}.onnx"], options)) for name in names}

    def search(self, images: np.ndarray) -> Iterator[Found]:
        """The best caption of each image, uint8 [batch, size, size, 3]."""
        for image in images:
            yield self._search(self._run["encoder"](image[None]))

    def _search(self, image: list[np.ndarray]) -> Found:
        settings, start = self._manifest["search"], self._manifest["start"]
        beams, longest = settings["num_beams"], settings["max_length"]
        shortest = settings.get("min_length", 0)  # folders of before it was there
        penalty, early = settings["length_penalty"], settings["early_stopping"] if beams > 1 else True
        layers, length, width = self._manifest["cache"]
        cache = np.zeros((2, layers, beams, length, width), np.float32)
        image = [np.repeat(leaf, beams, 0) for leaf in image]
        state = [np.zeros((beams, *shape), np.float32) for shape in self._manifest["state"]]
        for position, token in enumerate(start):
            log_probs, state = self._step(np.full(beams, token, np.int32), position, cache, image, state)
        live, totals = [list(start)] * beams, np.array([0.0] + [-1e9] * (beams - 1), np.float32)
        own = np.zeros(beams)  # without what bans add
        finished: list[Found] = []
        while True:
            allowed = log_probs.copy()
            for row, so_far in enumerate(live):
                allowed[row, _repeating(so_far, settings["no_repeat_ngram_size"])] = -np.inf
            if len(live[0]) < shortest:
                allowed[:, self._manifest["end_id"]] = -np.inf
            if beams == 1:
                allowed = _log_softmax(allowed)
            summed = (totals[:, None] + allowed).ravel()
            best = np.argsort(-summed, kind="stable")[: 2 * beams]
            rows, tokens = np.divmod(best, log_probs.shape[1])
            ends = (tokens == self._manifest["end_id"]) | (len(live[0]) + 1 >= longest)
            extended = [[*live[row], int(token)] for row, token in zip(rows, tokens, strict=True)]
            generated = len(extended[0]) - len(start)
            own = own[rows] + log_probs[rows, tokens]
            finished += [
                (extended[i], float(summed[best[i]] / generated**penalty), float(own[i]))
                for i in range(beams)
                if ends[i]
            ]
            finished = sorted(finished, key=lambda each: -each[1])[:beams]
            on = np.argsort(-(summed[best] - 1e9 * ends), kind="stable")[:beams]
            live, totals, own = [extended[i] for i in on], summed[best[on]] - np.float32(1e9) * ends[on], own[on]
            full = len(finished) == beams
            most = (longest - len(start)) if early == "never" and penalty > 0 else generated
            over = full and (early is True or totals[0] / most**penalty <= finished[-1][1])
            if over or len(live[0]) >= longest:
                return finished[0]
            cache, state = cache[:, :, rows[on]], [each[rows[on]] for each in state]
            log_probs, state = self._step(tokens[on].astype(np.int32), len(live[0]) - 1, cache, image, state)

    def _step(
        self,
        tokens: np.ndarray,
        position: int,
        cache: np.ndarray,
        image: list[np.ndarray],
        state: list[np.ndarray],
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Feed a token to each row, and note its keys and values.

        Returns:
            The next one's log-probabilities, and the merger's state.
        """
        place = np.array(position, np.int32)
        hidden, cache[0, :, :, position], cache[1, :, :, position] = self._run["language"](tokens, place, *cache)
        logits, *state = self._run["merger"](hidden, place, *image, *state)
        return _log_softmax(logits), state


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))


def _repeating(tokens: list[int], size: int) -> list[int]:
    """What would make a run of `size` tokens occur twice; nothing where `size` is 0."""
    if size < 1:
        return []
    last = tokens[len(tokens) - size + 1 :] if len(tokens) >= size else None
    return [tokens[i + size - 1] for i in range(len(tokens) - size + 1) if tokens[i : i + size - 1] == last]


BACKENDS: dict[str, Any] = {"dualcap-stablehlo": Compiled, "dualcap-onnx": Graphs}


def _runner(session: Any) -> Any:
    names = [each.name for each in session.get_inputs()]
    return lambda *arrays: session.run(None, dict(zip(names, arrays, strict=True)))


def load_exported(directory: str | Path) -> ExportedCaptioner:
    """The captioner of a folder.

    Raises:
        ExportedError: it is not whole, or of another version.
    """
    return ExportedCaptioner(directory)


def _upright_rgb(image: Any) -> Image.Image:
    """An image as it is to be looked at, on white where it is transparent."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    elif not isinstance(image, Image.Image):
        image = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    if image.mode not in ("1", "L", "P", "RGB", "CMYK", "YCbCr", "LAB", "HSV"):
        raise ValueError(f"pixels of the kind {image.mode}: give an image of 8 bits a channel")
    return image.convert("RGB")


def _read(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ExportedError(f"{path}: {error.strerror}; export the run anew") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise ExportedError(f"{path}: is not what was exported (its SHA-256 differs); export the run anew")
    return data


def _tensors(data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """The float32 arrays of a safetensors file."""
    start = 8 + int.from_bytes(data[:8], "little")
    for name, about in json.loads(data[8:start]).items():
        if name != "__metadata__":
            first, last = about["data_offsets"]
            yield name, np.frombuffer(data[start + first : start + last], "<f4").reshape(about["shape"])


def main(args: Sequence[str]) -> int:
    """Print the captions of image files; returns 1 where one can't be read, else 0."""
    if not args or args[0].startswith("-"):
        print(__doc__.strip(), file=sys.stderr)
        return 2
    captioner, failed = load_exported(Path(__file__).parent), 0
    for name in args:
        try:
            print(f"{name}\t{captioner(name).text}", flush=True)
        except (OSError, ValueError, SyntaxError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except ExportedError as error:
        sys.exit(f"error: {error}")
