"""Caption images with an exported captioner: python caption.py IMAGE...

Lies in every folder that `dualcap export --format stablehlo` wrote, and needs what is there and jax, numpy, Pillow and
tokenizers: nothing of dualcap_jax, and none of the network's code.

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

import jax
import numpy as np
from jax import export
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
    """A compiled network with its weights and its tokenizer.

    Args:
        directory: that `dualcap export --format stablehlo` wrote.

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
        if found != ("dualcap-stablehlo", VERSION):
            raise ExportedError(f"{directory}: is {found[0]} {found[1]}, and this reads dualcap-stablehlo {VERSION}")
        files = {name: _read(directory / name, digest) for name, digest in self.manifest["files"].items()}
        self._weights = jax.device_put(dict(_tensors(files["weights.safetensors"])))
        self._tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
        self._functions = {
            int(size): jax.jit(export.deserialize(bytearray(files[name])).call)
            for size, name in self.manifest["functions"].items()
        }

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
        pending, sizes = map(self.prepare, images), sorted(self._functions)
        while chunk := list(islice(pending, sizes[-1])):
            size = next(size for size in sizes if size >= len(chunk))
            filled = np.stack(chunk + chunk[-1:] * (size - len(chunk)))
            found = jax.device_get(self._functions[size](self._weights, filled))
            for row in range(len(chunk)):
                yield self._caption({name: values[row, 0] for name, values in found.items()})

    def _caption(self, found: dict[str, Any]) -> Caption:
        ids = found["tokens"][1 : found["lengths"]].tolist()
        if self.manifest["end_id"] in ids:
            ids = ids[: ids.index(self.manifest["end_id"])]
        text = self._tokenizer.decode(ids, skip_special_tokens=False).strip()
        return Caption(text, float(found["scores"]), float(found["token_log_probs"].sum(dtype=np.float64)))

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
