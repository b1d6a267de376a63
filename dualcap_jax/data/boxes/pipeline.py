"""From images with boxes to batches of numpy arrays, by grain.

A batch is a dict of
    image    uint8[B, S, S, 3]   RGB as decoded, squashed to the square
    boxes    float32[B, N, 4]    top, left, bottom, right in pixels of the square; 0 where there is none
    labels   int32[B, N]         class of each box, from 1; 0 where there is none
    image_id int64[B]            the image's id; -1 marks a row that only fills the batch up
where N is the most boxes that an image of the source has. Boxes of crowds are left out.
"""

from functools import partial
from itertools import zip_longest

import grain
import numpy as np

from dualcap_jax.data.boxes.coco import CocoBoxes
from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.data.boxes.records import BoxSource
from dualcap_jax.data.boxes.scenes import SceneBoxes
from dualcap_jax.data.images import ImageError
from dualcap_jax.data.pipeline import Batch, Example, UnreadableImage, batched, why_unreadable, with_rng
from dualcap_jax.data.records import DataError


def open_boxes(config: BoxesConfig) -> tuple[BoxSource, BoxSource]:
    """The images to train on, and those to validate on.

    Raises:
        DataError: there is no such set; it is broken; or the classes of one split are not the other's.
    """
    kind = CocoBoxes if config.root else SceneBoxes
    train, validation = kind(config, "train"), kind(config, "validation")
    if train.names != validation.names:
        pairs = zip_longest(train.names, validation.names, fillvalue="")
        ours, theirs = next(pair for pair in pairs if pair[0] != pair[1])
        raise DataError(
            f"data.root='{config.root}': the categories to validate on are not those to train on ({theirs!r} where "
            f"there is {ours!r}): write the same 'categories' into both files"
        )
    return train, validation


def train_batches(source: BoxSource, config: BoxesConfig, batch_size: int, seed: int) -> grain.DatasetIterator[Batch]:
    """Batches for training: endless, every epoch in a new order.

    Args:
        source: the images.
        config: threads and processes that read; whether images are mirrored.
        batch_size: images of a batch.
        seed: of order and mirroring, 0 to 2**32 - 1.

    Raises:
        DataError: from `next`, for an image that can't be read where `on_error` is "raise", or when none can be.
    """
    examples = (
        grain.MapDataset.range(len(source))
        .seed(seed)
        .shuffle()
        .repeat()
        .random_map(with_rng)
        .map(partial(_train_example, source, config.flip))
    )
    return iter(batched(examples, source.faults, len(source), config, batch_size))


def validation_batches(
    source: BoxSource, config: BoxesConfig, batch_size: int, images: int
) -> grain.IterDataset[Batch]:
    """The first so many images, once, in order; the last batch is filled up."""
    examples = grain.MapDataset.range(min(images, len(source))).map(partial(_example, source))
    return batched(examples, source.faults, len(source), config, batch_size)


def _train_example(source: BoxSource, flip: bool, drawn: tuple[int, np.random.Generator]) -> Example | UnreadableImage:
    index, rng = drawn
    return _example(source, index, flip and bool(rng.random() < 0.5))


def _example(source: BoxSource, index: int, mirrored: bool = False) -> Example | UnreadableImage:
    """One image with its boxes, in `source.most` places."""
    record = source[index]
    try:
        image = source.transform.squash(source.transform.open(record.read_image(), record.filename))
    except (ImageError, OSError) as error:
        return UnreadableImage(record.image_id, why_unreadable(record.filename, error))
    kept = ~record.boxes.crowd
    top, left, bottom, right = record.boxes.corners[kept].T
    if mirrored:
        image, left, right = image[:, ::-1], 1 - right, 1 - left
    boxes, labels = np.zeros((source.most, 4), np.float32), np.zeros(source.most, np.int32)
    boxes[: len(top)] = np.stack([top, left, bottom, right], 1) * source.transform.size
    labels[: len(top)] = record.boxes.classes[kept] + 1
    return {"image": image, "boxes": boxes, "labels": labels, "image_id": np.array(record.image_id, np.int64)}
