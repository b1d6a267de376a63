"""What a run's weights belong to, its tokenizer and its images with their captions, noted to notice others in their
place."""

import json
import shlex
import zlib
from collections.abc import Mapping
from pathlib import Path

from dualcap_jax.data.records import DataError, Source
from dualcap_jax.data.text import CaptionTokenizer, load_tokenizer
from dualcap_jax.files import write_text

FILE = "trained_on.json"
"""In a run directory: `tokenizer`, its digest; `train`, an `Index`; of a student `teacher`, a checksum of its teacher's
weights. Older runs have none."""

Index = dict[str, str]
"""Of each image of a split its name and a checksum of its captions or boxes, in order."""


def index_of(source: Source) -> Index:
    """What the order and the content of training hang on, but for the images' own bytes."""
    records = map(source.__getitem__, range(len(source)))
    return {record.filename: f"{zlib.crc32(json.dumps(record.captions).encode()):08x}" for record in records}


def checksum(value: object) -> str:
    """Of what JSON can hold."""
    return f"{zlib.crc32(json.dumps(value).encode()):08x}"


def note(workdir: Path, tokenizer: CaptionTokenizer | None, train: Index, teacher: str = "") -> None:
    """Note what a run is trained on; a detector has no tokenizer."""
    noted = {"tokenizer": tokenizer.digest if tokenizer else None, "train": train}
    write_text(workdir / FILE, json.dumps(noted | ({"teacher": teacher} if teacher else {})) + "\n")


def check_data(workdir: Path, train: Index, root: str, what: str = "captions", command: str = "train") -> None:
    """Compare the training data with those that the run began with.

    Args:
        workdir: the run directory.
        train: the training data.
        root: where they lie.
        what: the images come with.
        command: that trains such a run.

    Raises:
        DataError: they are others; says what changed.
    """
    before: Index = _noted(workdir).get("train", train)
    if told := _changes(before, train, what):
        options = ["--init-from", str(workdir), "--data.root", root or "DIR"]
        again = shlex.join(["python", "-m", f"dualcap_jax.{command}", *options])
        raise DataError(
            f"data.root={root!r}: not the images and {what} that {workdir} was trained on: {told}. Put them back, or "
            f"begin a new run with its weights: {again}"
        )


def check_teacher(workdir: Path, weights: str, source: str) -> None:
    """Compare the teacher of a run that has one with that which it began with; `weights` is a checksum of its own.

    Raises:
        DataError: it is another.
    """
    if _noted(workdir).get("teacher", weights) != weights:
        again = shlex.join(["python", "-m", "dualcap_jax.train", "--init-from", str(workdir)])
        raise DataError(
            f"training.teacher={source!r}: its weights are not those that {workdir} began to learn from. Bring these "
            f"back, or begin a new run with the student's: {again}"
        )


def _changes(before: Index, now: Index, what: str) -> str:
    """What differs, in words."""
    kinds = {
        "gone": [name for name in before if name not in now],
        "new": [name for name in now if name not in before],
        f"with other {what}": [name for name in before if now.get(name, before[name]) != before[name]],
    }
    parts = [f"{len(names)} {kind} (such as {names[0]!r})" for kind, names in kinds.items() if names]
    if not parts and list(before) != list(now):
        parts = ["they come in another order"]
    return ", ".join(parts)


def load_own_tokenizer(workdir: Path, vocab_size: int) -> CaptionTokenizer:
    """The tokenizer of a run, which is never sought elsewhere.

    Args:
        workdir: the run directory.
        vocab_size: of its network.

    Raises:
        DataError: it is missing, broken, or another's.
    """
    directory = workdir / "tokenizer"
    mend = "bring back the run's own from a copy of it"
    if not directory.is_dir():
        raise DataError(f"{directory}: the run's tokenizer is not there; {mend}")
    tokenizer = load_tokenizer(directory)
    if tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"{directory}: has {tokenizer.vocab_size} tokens, and the run's network {vocab_size}: this tokenizer is "
            f"another's; {mend}"
        )
    if _noted(workdir).get("tokenizer", tokenizer.digest) != tokenizer.digest:
        raise DataError(f"{directory}: not the tokenizer that the run was trained with; {mend}")
    return tokenizer


def _noted(workdir: Path) -> Mapping:
    path = workdir / FILE
    if not path.is_file():
        return {}
    try:
        noted = json.loads(path.read_bytes())
        noted["tokenizer"], noted["train"].items()
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(f"{path}: broken ({error!r}); delete it, and nothing is compared with it") from None
    return noted
