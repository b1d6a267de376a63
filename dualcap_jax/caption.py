"""Caption pictures: python -m dualcap_jax.caption WORKDIR PICTURE_OR_FOLDER... [--num-beams 5] [--format jsonl]."""

import json
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import tyro

from dualcap_jax import cli
from dualcap_jax.captioner import Caption, Captioner
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import ImageError, prepare_image
from dualcap_jax.decoding.config import DecodingConfig
from dualcap_jax.training.checkpoints import Which

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Arguments:
    """What the command line holds."""

    workdir: tyro.conf.Positional[str]
    """Run directory that `python -m dualcap_jax.train` wrote."""
    pictures: tyro.conf.Positional[tuple[str, ...]]
    """Picture files, and folders whose pictures are taken, those in folders below too."""
    format: Literal["text", "jsonl"] = "text"
    """text: path, tab, caption. jsonl: one JSON object a line, with scores."""
    checkpoint: Which = "best"
    """best (by validation loss) or latest."""
    decoding: Annotated[DecodingConfig, tyro.conf.arg(name="")] = field(default_factory=DecodingConfig)
    """How captions are searched for; the run's own settings unless changed."""


class Pictures:
    """The pictures that were asked for; what cannot be read is told and passed over."""

    def __init__(self, names: Sequence[str], data: DataConfig):
        self._names, self._data = names, data
        self.failed = 0
        self.read: deque[Path] = deque()
        """Paths of the pictures read and not yet captioned."""

    def _paths(self) -> Iterator[Path]:
        for path in map(Path, self._names):
            if path.is_dir():
                found = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
                if not found:
                    self._fail(path, "no pictures in this folder")
                yield from found
            else:
                yield path

    def _fail(self, path: Path, reason: object) -> None:
        print(f"{path}: {reason}", file=sys.stderr)
        self.failed += 1

    def __iter__(self) -> Iterator[np.ndarray]:
        data = self._data
        for path in self._paths():
            try:
                image = prepare_image(path.read_bytes(), data.image_size, data.resize, data.interpolation)
            except OSError as error:
                self._fail(path, error.strerror or error)
            except ImageError as error:
                self._fail(path, error)
            else:
                self.read.append(path)
                yield image


def render(path: Path, caption: Caption, form: str) -> str:
    """One line of output."""
    if form == "text":
        return "\n".join(f"{path}\t{each.text}" for each in (caption, *caption.others))
    values = [{"caption": c.text, "score": c.score, "log_prob": c.log_prob} for c in (caption, *caption.others)]
    others = {"others": values[1:]} if values[1:] else {}
    return json.dumps({"image": str(path), **values[0], **others}, ensure_ascii=False)


def main(args: Sequence[str]) -> int:
    """Caption pictures; returns 1 where some could not be read, else 0."""
    description = "Caption pictures with a trained run."
    arguments = cli.parse(Arguments, args, "caption", description)
    captioner = Captioner.load(arguments.workdir, arguments.checkpoint)
    default = replace(arguments, decoding=captioner.config.decoding)
    arguments = cli.parse(Arguments, args, "caption", description, default)

    data = captioner.config.data
    pictures = Pictures(arguments.pictures, data)
    for caption in captioner.caption_prepared(pictures, arguments.decoding):
        print(render(pictures.read.popleft(), caption, arguments.format), flush=True)
    return 1 if pictures.failed else 0


if __name__ == "__main__":
    cli.run(main)
