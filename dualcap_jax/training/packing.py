"""Captions laid side by side in rows, so that the network computes on little but real tokens.

A batch of captions is mostly padding: a caption of 14 tokens has 36 places. Here each row of `max_length - 1` places
holds as many captions as fit, first the longest, each where it leaves the least room (best fit decreasing).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np
from jaxtyping import Bool, Int

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import Source
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.models.mergers import MergerConfig
from dualcap_jax.processes import gathered
from dualcap_jax.training.config import TrainingConfig
from dualcap_jax.training.objectives import Batch

SAMPLE = 2000
"""Images whose captions tell how much room batches need."""

DRAWS = 100
"""Batches that are drawn of them."""

Lengths = Int[np.ndarray, "images captions"]
"""Places that each caption takes; 0 where there is none."""


@dataclass(frozen=True)
class Room:
    """What a packed batch has room for: its shapes."""

    rows: int
    """Rows of captions."""
    of_image: int
    """Places of all captions of an image."""


def lay(
    lengths: Int[np.ndarray, " texts"], width: int
) -> tuple[Int[np.ndarray, " texts"], Int[np.ndarray, " texts"], int]:
    """Lay texts into rows.

    Args:
        lengths: of each text, at most `width`.
        width: places of a row.

    Returns:
        Row and first place of each text, and the number of rows.
    """
    left: list[list[int]] = [[] for _ in range(width + 1)]  # rows by the room that they have left
    row_of, start_of, rows = np.zeros_like(lengths), np.zeros_like(lengths), 0
    for index in np.argsort(-lengths, kind="stable"):
        length = int(lengths[index])
        room = next((room for room in range(length, width) if left[room]), width)
        if room < width:
            row_of[index] = left[room].pop()
        elif length:
            row_of[index], rows = rows, rows + 1
        else:
            continue
        start_of[index] = width - room
        left[room - length].append(int(row_of[index]))
    return row_of, start_of, rows


@dataclass(frozen=True)
class Packer:
    """Makes packed batches of padded ones.

    A packed batch has, instead of tokens and mask [batch, captions, max_length], these [rows, length]:
    `tokens`, `attended` (which of them are real), `labels` (the next tokens), `real` (which of these are), where
    `whole` also `counted` (where there is a caption); and the fields of `Packing`, of which the parts are the groups.
    `advantage`, where there is one, is laid out from its caption [batch, captions] to each of its places. Its rows are
    `parts` times as many as its room.
    """

    room: Room
    """What nearly all batches fit into. A batch that does not is given the most that any could need."""
    parts: int = 1
    """Parts that a batch is divided into, none of whose rows hold captions of another part."""
    whole: bool = False
    """Whether captions take all their places, padding too."""
    apart: bool = False
    """Whether the merger needs each caption by itself, each at its place."""
    together: bool = False
    """Whether all processes pack a batch at the same time, which must be of one shape."""

    def __call__(self, batch: Batch) -> Batch:
        """The packed batch."""
        tokens, mask = batch["tokens"], batch["mask"]
        images, captions, width = tokens.shape[0], tokens.shape[1], tokens.shape[2] - 1
        lengths, in_part = places_of(mask, self.whole), images // self.parts
        laid = [lay(part.reshape(-1), width) for part in lengths.reshape(self.parts, -1)]
        room = self.room
        fits = max(rows for *_, rows in laid) <= room.rows and int(lengths.sum(1).max()) <= room.of_image
        if not (all(gathered(fits)) if self.together else fits):
            room = Room(in_part * captions, captions * width)
        spots_of_image = (captions, width) if self.apart else (1, room.of_image)
        shape, nowhere, unplaced = (self.parts * room.rows, width), room.rows * width, in_part * prod(spots_of_image)

        # of every place that is taken: the caption, and the place in it
        counts = lengths.reshape(-1)
        caption = np.repeat(np.arange(images * captions), counts)
        place = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        image, number = np.divmod(caption, captions)
        row = np.concatenate([rows + part * room.rows for part, (rows, _, _) in enumerate(laid)])[caption]
        start = np.concatenate([starts for _, starts, _ in laid])[caption]
        before = (np.cumsum(lengths, 1) - lengths).reshape(-1)[caption]
        spot = number * width + place if self.apart else before + place

        def rows_of(values: np.ndarray, filling: int = 0) -> np.ndarray:
            filled = np.full(shape, filling, np.int32 if values.dtype.kind == "i" else values.dtype)
            filled[row, start + place] = values
            return filled

        spots = np.full((images, prod(spots_of_image)), nowhere, np.int32)
        spots[image, spot] = row % room.rows * width + start + place
        rest = {name: value for name, value in batch.items() if name not in ("tokens", "mask")}
        if "advantage" in batch:
            rest["advantage"] = rows_of(batch["advantage"][image, number])
        if self.whole:
            rest["counted"] = rows_of(np.ones_like(caption, bool))
        return rest | {
            "tokens": rows_of(tokens[image, number, place]),
            "attended": rows_of(mask[image, number, place]),
            "labels": rows_of(tokens[image, number, place + 1]),
            "real": rows_of(mask[image, number, place + 1]),
            "segments": rows_of(start + 1),
            "positions": rows_of(place),
            "places": rows_of(image % in_part * prod(spots_of_image) + spot, unplaced).reshape(self.parts, -1, width),
            "spots": spots.reshape(self.parts, in_part, *spots_of_image),
        }


def pack(batch: Batch, parts: int, apart: bool) -> Batch:
    """A packed batch of captions whose lengths nobody knew before; its room is what it needs, rounded up to eighths of
    the most, so that few shapes are compiled. Arguments as a `Packer`'s fields."""
    images, captions, length = batch["mask"].shape
    needed, _ = room_for([places_of(batch["mask"])], length - 1, parts)

    def rounded(least: int, most: int) -> int:
        return most * -(-8 * least // most) // 8

    room = Room(rounded(needed.rows, images // parts * captions), rounded(needed.of_image, captions * (length - 1)))
    return Packer(room, parts, apart=apart)(batch)


def plan_training(
    source: Source,
    tokenizer: CaptionTokenizer,
    data: DataConfig,
    training: TrainingConfig,
    merger: MergerConfig,
    shards: int = 1,
    processes: int = 1,
) -> tuple[Packer, float]:
    """A packer for a process's batches of training, and the share of its places that captions fill, by a sample.

    Args:
        source: the training records.
        tokenizer: makes the tokens.
        data: how they are read.
        training: sizes of the batches of all processes together.
        merger: the network's.
        shards: devices of all processes that a batch is divided among.
        processes: how many train together.
    """
    rng, captions = np.random.default_rng(training.seed), data.captions_per_image
    images = rng.permutation(len(source))[:SAMPLE]
    of_images = [_lengths(source, tokenizer, data, int(image)) for image in images]

    def draw() -> Lengths:
        chosen = (of_images[image] for image in rng.integers(len(of_images), size=training.batch_size))
        return _stack([rng.permutation(lengths)[:captions] for lengths in chosen], captions, training, data)

    packer, filled = _plan([draw() for _ in range(DRAWS)], data, training, merger, training.accumulate * shards)
    return replace(packer, parts=packer.parts // processes, together=processes > 1), filled


def plan_validation(
    source: Source,
    tokenizer: CaptionTokenizer,
    data: DataConfig,
    training: TrainingConfig,
    merger: MergerConfig,
    shards: int = 1,
) -> Packer:
    """A packer for the batches of validation, whose images come with all their captions, in order; arguments as of
    `plan_training`, but that `shards` are the process's own devices."""
    size, captions = training.batch_size, int(source.caption_counts.max())
    of_images = [_lengths(source, tokenizer, data, image) for image in range(min(len(source), SAMPLE))]
    chunks = [of_images[start : start + size] for start in range(0, len(of_images), size)]
    return _plan([_stack(chunk, captions, training, data) for chunk in chunks], data, training, merger, shards)[0]


def _lengths(source: Source, tokenizer: CaptionTokenizer, data: DataConfig, image: int) -> list[int]:
    captions = map(data.styled, source[image].captions)
    return [len(tokenizer.encode(caption, data.max_length)) - 1 for caption in captions]


def _stack(
    of_images: Sequence[Sequence[int] | np.ndarray], captions: int, training: TrainingConfig, data: DataConfig
) -> Lengths:
    lengths = np.zeros((training.batch_size, captions), int)
    for row, each in enumerate(of_images):
        lengths[row, : len(each)] = data.max_length - 1 if training.loss == "all_positions" else each
    return lengths


def _plan(
    batches: Sequence[Lengths], data: DataConfig, training: TrainingConfig, merger: MergerConfig, parts: int = 1
) -> tuple[Packer, float]:
    room, filled = room_for(batches, data.max_length - 1, parts)
    return Packer(room, parts, training.loss == "all_positions", not merger.is_pointwise), filled


def places_of(mask: Bool[np.ndarray, "images captions length"], whole: bool = False) -> Lengths:
    """Places that captions take: one for each token but the last; all of them where `whole`."""
    places = np.maximum(mask.sum(-1) - 1, 0)
    return np.where(places > 0, mask.shape[-1] - 1, 0) if whole else places


def room_for(batches: Sequence[Lengths], width: int, parts: int = 1) -> tuple[Room, float]:
    """What these batches fit into, and the share of its places that they fill.

    Args:
        batches: lengths of the captions of each.
        width: places of a row.
        parts: as `Packer.parts`.
    """
    divided = [part.reshape(-1) for batch in batches for part in batch.reshape(parts, -1)]
    rows = max(lay(lengths, width)[2] for lengths in divided)
    filled = sum(int(lengths.sum()) for lengths in divided) / (len(divided) * rows * width)
    return Room(rows, max(int(batch.sum(1).max()) for batch in batches)), filled
