"""From records to batches of numpy arrays, by grain: shuffled without end for training, once in order for evaluation.

A batch is a dict of
    image    uint8[B, S, S, 3]   RGB as decoded; scaled on the device. Of a source that is encoded already instead
                                 vector float16[B, F] and, for each stride, maps_STRIDE float16[B, h, w, c]
    teacher_vector, teacher_maps_STRIDE   the same as a teacher encoded it, where there is one
    tokens   int32[B, C, T]      framed captions, padded with id 0
    mask     bool[B, C, T]       True on real tokens: by length, never by id
    image_id int64[B]            the record's id; -1 marks a row that only fills the batch up
where C is the number of captions of an example and T is `data.max_length`. A caption that an image does not have is all
False in `mask`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import grain
import numpy as np
from absl import flags
from jaxtyping import Bool, Int, Int32, UInt8

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.features import EncodedSource
from dualcap_jax.data.images import ImageError
from dualcap_jax.data.reading import LoadingConfig, map_ahead
from dualcap_jax.data.records import DataError, Faults, Record, Source
from dualcap_jax.data.text import CaptionTokenizer
from dualcap_jax.interrupts import follow_parent

Batch = dict[str, np.ndarray]
Example = Batch  # without the batch axis


@dataclass(frozen=True)
class UnreadableImage:
    """Takes an example's place in the stream up to where faults are counted."""

    image_id: int
    message: str


def count_examples(source: Source, config: DataConfig) -> int:
    """Examples of one epoch of training: (image, caption) pairs, or images where `captions_per_image` > 1."""
    return int(source.caption_counts.sum()) if config.captions_per_image == 1 else len(source)


def train_iterator(
    source: Source,
    tokenizer: CaptionTokenizer,
    config: DataConfig,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    teacher: EncodedSource | None = None,
) -> grain.DatasetIterator[Batch]:
    """Batches for training: endless, every epoch in a new order.

    One global stream of examples, fixed by `seed`, is dealt out to the processes in turn, so none is lost or doubled
    whatever their number. Epochs follow each other without a gap: a batch may hold the end of one and the start of the
    next.

    Args:
        source: the training records.
        tokenizer: makes the tokens.
        config: sizes; threads and worker processes, which change nothing in the stream.
        batch_size: examples a batch of this process holds.
        seed: of order and choice of captions, 0 to 2**32 - 1.
        process_index: of this process among those that train together.
        process_count: how many train together.
        teacher: the same records as a teacher encoded them, where its features are to be in the batches too.

    Returns:
        An iterator whose state grain can save and restore (`grain.checkpoint.CheckpointSave`), also with another number
        of threads, and `dealt_anew` with another number of processes. Worker processes keep a state of their own form:
        resume with as many.

    Raises:
        DataError: from `next`, for an image that can't be read where `on_error` is "raise", or when none can be.
    """
    counts, width, epoch = source.caption_counts, config.captions_per_image, count_examples(source, config)
    pick: Picker = partial(_pick_pair, np.cumsum(counts)) if width == 1 else partial(_pick_captions, counts, width)
    stream = (
        grain.MapDataset.range(epoch)
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(with_rng)
        .map_with_index(partial(_train_example, source, teacher, tokenizer, config, pick, epoch))[
            process_index::process_count
        ]
    )
    return iter(batched(stream, source.faults, len(source), config, batch_size))


def dealt_anew(states: Sequence[Mapping[str, Any]], process_count: int) -> dict[str, int]:
    """The state of each iterator of `train_iterator` from which that many processes go on where others were.

    Args:
        states: of the iterators of all processes that there were, in order.
        process_count: that there are now.

    Raises:
        DataError: worker processes read the data, whose states hold for as many processes only.
    """
    if any(state.keys() != {"next_index"} for state in states):
        raise DataError(
            f"data.workers: with workers a run resumes on as many processes as it was trained on ({len(states)}); one "
            "trained with --data.workers 0 resumes on any number"
        )
    # Where images were skipped, some processes are further on than others.
    done = max(int(state["next_index"]) for state in states) * len(states)
    return {"next_index": -(-done // process_count)}


def eval_batches(
    source: Source,
    tokenizer: CaptionTokenizer,
    config: DataConfig,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.IterDataset[Batch]:
    """Batches for evaluation: every record once, in order, with all its captions.

    Args:
        source: the records.
        tokenizer: makes the tokens.
        config: as for training.
        batch_size: rows of every batch; the last is filled up with rows of `image_id` -1 and nothing in `mask`.
        process_index: of this process among those that evaluate together.
        process_count: how many do; the batches are dealt out to them in turn.

    Returns:
        An iterable of batches, to be gone through as often as wanted; C is the most captions that any record has.
    """
    make_example = partial(_eval_example, source, tokenizer, config, source.caption_counts)
    dealt = [place for place in range(len(source)) if place // batch_size % process_count == process_index]
    examples = grain.MapDataset.source(dealt).map(make_example)
    return batched(examples, source.faults, len(source), config, batch_size)


def check_images(source: Source, count: int, threads: int) -> None:
    """Decode the first images of a source, so that broken ones are found before they are met; reports them as faults.

    Args:
        source: of the images.
        count: how many, at most.
        threads: that read and decode.

    Raises:
        DataError: for a broken one, where `on_error` is "raise".
    """
    records = map(source.__getitem__, range(min(count, len(source))))
    for message in filter(None, map_ahead(partial(_fault_of, source), records, threads)):
        source.faults.report("unreadable image", message)


def _fault_of(source: Source, record: Record) -> str:
    """What keeps a record's image from being read, or nothing."""
    try:
        source.transform.open(record.read_image(), record.filename)
    except (ImageError, OSError) as error:
        return why_unreadable(record.filename, error)
    return ""


def decoded_batches(
    source: Source, config: DataConfig, batch_size: int, start: int = 0, views: int = 0
) -> Iterator[tuple[list[int], UInt8[np.ndarray, "..."], dict[int, str]]]:
    """The images of a source in order, as the encoder reads them, to be encoded once.

    Args:
        source: of the images.
        config: views, and threads that read and decode.
        batch_size: images of a batch; the last may have fewer.
        start: position to begin with.
        views: random views of all images, one after the other: the positions go on. 0: the images as they are.

    Yields:
        Positions; images [batch, size, size, 3]; and what is wrong with those that can't be read, by position, which
        is reported as a fault.

    Raises:
        DataError: for a broken one, where `on_error` is "raise".
    """

    def read(position: int) -> np.ndarray | str:
        record = source[position % len(source)]
        try:
            return _square(source, record, config, np.random.default_rng(position) if views else None)
        except (ImageError, OSError) as error:
            return why_unreadable(record.filename, error)

    results = map_ahead(read, range(start, max(views, 1) * len(source)), max(1, config.read_threads))
    while chunk := list(islice(results, batch_size)):
        found = dict(enumerate(chunk, start))
        start += len(chunk)
        broken = {position: each for position, each in found.items() if isinstance(each, str)}
        for position, message in broken.items():
            if position < len(source):
                source.faults.report("unreadable image", message)
        squares = {position: each for position, each in found.items() if not isinstance(each, str)}
        yield list(squares), np.array(list(squares.values()), np.uint8), broken


Picker = Callable[[int, np.random.Generator], tuple[int, Sequence[int]]]  # -> record, captions of it


def _pick_pair(ends: Int[np.ndarray, " records"], index: int, rng: np.random.Generator) -> tuple[int, Sequence[int]]:
    """`ends`: pairs up to and with each record."""
    record = int(np.searchsorted(ends, index, side="right"))
    return record, [index - (int(ends[record - 1]) if record else 0)]


def _pick_captions(
    counts: Int[np.ndarray, " records"], most: int, index: int, rng: np.random.Generator
) -> tuple[int, Sequence[int]]:
    return index, rng.permutation(counts[index])[:most].tolist()


def with_rng(index: int, rng: np.random.Generator) -> tuple[int, np.random.Generator]:
    """What grain's `random_map` calls for an example that draws by chance as it is made."""
    return index, deepcopy(rng)  # grain uses its own again


def _train_example(
    source: Source,
    teacher: EncodedSource | None,
    tokenizer: CaptionTokenizer,
    config: DataConfig,
    pick: Picker,
    epoch: int,
    place: int,
    drawn: tuple[int, np.random.Generator],
) -> Example | UnreadableImage:
    """The example at a place of the endless stream, of which `epoch` are an epoch."""
    index, rng = drawn
    record_index, caption_indices = pick(index, rng)
    width, turn = config.captions_per_image, place // epoch
    if width == 1:  # an epoch has an image once for each of its captions
        turn = turn * int(source.caption_counts[record_index]) + caption_indices[0]
    return _make_example(source, tokenizer, config, record_index, caption_indices, width, rng, turn, teacher)


def _eval_example(
    source: Source, tokenizer: CaptionTokenizer, config: DataConfig, counts: Int[np.ndarray, " records"], index: int
) -> Example | UnreadableImage:
    return _make_example(source, tokenizer, config, index, range(counts[index]), int(counts.max()))


def _make_example(
    source: Source,
    tokenizer: CaptionTokenizer,
    config: DataConfig,
    record_index: int,
    caption_indices: Sequence[int],
    width: int,
    augment: np.random.Generator | None = None,
    turn: int = 0,
    teacher: EncodedSource | None = None,
) -> Example | UnreadableImage:
    """One image with the chosen captions, in `width` places."""
    record = source[record_index]
    try:
        if isinstance(source, EncodedSource):
            seen = source.features(record_index, turn)
        else:
            seen = {"image": _square(source, record, config, augment)}
        if teacher is not None:
            seen |= {f"teacher_{name}": values for name, values in teacher.features(record_index).items()}
    except (ImageError, OSError) as error:
        return UnreadableImage(record.image_id, why_unreadable(record.filename, error))
    ids = [tokenizer.encode(config.styled(record.captions[i]), config.max_length) for i in caption_indices]
    tokens, mask = pad_tokens(ids, width, config.max_length)
    return {**seen, "tokens": tokens, "mask": mask, "image_id": np.array(record.image_id, np.int64)}


def _square(
    source: Source, record: Record, config: DataConfig, augment: np.random.Generator | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """The image as the encoder reads it, or a random view of it."""
    image, transform = source.transform.open(record.read_image(), record.filename), source.transform
    if augment is None:
        return transform(image)
    is_cropped = config.crop_scale < 1 and augment.random() < config.crop_share
    square = transform.random_crop(image, config.crop_scale, augment) if is_cropped else transform(image)
    return square[:, ::-1] if config.flip and augment.random() < 0.5 else square


def why_unreadable(filename: str, error: ImageError | OSError) -> str:
    """Why an image can't be read."""
    reason = f"can't be read ({error.strerror or error})" if isinstance(error, OSError) else str(error)
    return f"image '{filename}': {reason}"


def pad_tokens(
    ids: Sequence[Sequence[int]], captions: int, length: int
) -> tuple[Int32[np.ndarray, "{captions} {length}"], Bool[np.ndarray, "{captions} {length}"]]:
    """Lay token ids out in an array.

    Args:
        ids: token ids of at most `captions` captions, each at most `length` long.
        captions: rows.
        length: columns.

    Returns:
        tokens, 0 where there is none, and mask, True where there is one.
    """
    tokens = np.zeros((captions, length), np.int32)
    mask = np.zeros((captions, length), bool)
    for row, row_ids in enumerate(ids):
        tokens[row, : len(row_ids)] = row_ids
        mask[row, : len(row_ids)] = True
    return tokens, mask


def batched(
    examples: grain.MapDataset, faults: Faults, images: int, config: LoadingConfig, batch_size: int
) -> grain.IterDataset[Batch]:
    """Batches of examples, without those that are an `UnreadableImage`, which are reported.

    Args:
        examples: dicts of arrays, `image_id` among them.
        faults: what to do about unreadable images.
        images: how many there are.
        config: threads and processes that read.
        batch_size: rows of every batch; a last one is filled up with zeros, `image_id` with -1.
    """
    read_options = grain.ReadOptions(
        num_threads=config.read_threads,
        prefetch_buffer_size=max(2 * batch_size, config.read_threads) if config.read_threads else 0,
    )
    stream = examples.to_iter_dataset(read_options)
    if config.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers are told the flags of absl, which we have none of
        # Before the batching, so that examples come in the same order as without workers.
        options = grain.MultiprocessingOptions(num_workers=config.workers, per_worker_buffer_size=2 * batch_size)
        stream = stream.mp_prefetch(options, worker_init_fn=follow_parent)
    return stream.filter(_FaultCounter(faults, images)).batch(batch_size, batch_fn=_Stack(batch_size))


class _FaultCounter:
    """Takes unreadable images out of the stream, in the main process, and reports them."""

    def __init__(self, faults: Faults, images: int):
        self._faults, self._images = faults, images
        self._unreadable: set[int] = set()

    def __call__(self, example: Example | UnreadableImage) -> bool:
        if not isinstance(example, UnreadableImage):
            return True
        self._faults.report("unreadable image", example.message)
        self._unreadable.add(example.image_id)
        if len(self._unreadable) == self._images:
            raise DataError(f"not one of the {self._images} images can be read: {example.message}")
        return False


class _Stack:
    """Stacks examples into a batch of `size` rows, the last of them empty where there are too few examples."""

    def __init__(self, size: int):
        self._size = size

    def __call__(self, examples: Sequence[Example]) -> Batch:
        batch = {}
        for name, first in examples[0].items():
            rows = np.empty((self._size, *first.shape), first.dtype)
            np.stack([example[name] for example in examples], out=rows[: len(examples)])
            rows[len(examples) :] = 0
            batch[name] = rows
        batch["image_id"][len(examples) :] = -1
        return batch
