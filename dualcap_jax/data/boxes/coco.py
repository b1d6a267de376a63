"""Boxes in COCO's layout: annotations/instances_NAME.json, with the images in NAME/."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from dualcap_jax.data.archives import File
from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.data.boxes.records import BoxedImage, Boxes
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.coco import find_annotations, find_images, read_images
from dualcap_jax.data.sources.entries import Entry, get, is_id
from dualcap_jax.data.sources.texts import read_json

SHORT = {"train": "train", "validation": "val"}
"""Splits, as the names of files begin with them."""
MOST_CLASSES = 10_000
"""Highest id of a category; the detector has an output for each up to the highest."""
OUTSIDE = 1.0
"""Pixels that a box may reach over the image's edge, as rounding has it; it is cut there."""

Row = tuple[list[float], int, bool]
"""Of a box: corners as of `Boxes`, class, whether it is a crowd's."""


class CocoBoxes:
    """Images of one split of COCO's layout, those without boxes too. See `BoxSource`.

    A category's class is its id less one, so that COCO's 80 categories, of ids up to 90, have 90 classes, as published
    detectors have them.
    """

    def __init__(self, config: BoxesConfig, split: str):
        """`config.root` is the directory.

        Raises:
            DataError: there is no such set or split, or it has no boxes; or, where `on_error` is "raise", anything in
                it is broken.
        """
        root, self.faults, self.transform = Path(config.root), Faults(config.on_error), config.images.transform
        if not root.is_dir():
            raise DataError(f"data.root='{root}' is not a directory")
        annotations = find_annotations(root, "instances").get(split)
        if annotations is None:
            wanted = f"annotations/instances_{SHORT[split]}*.json"
            raise DataError(f"data.root='{root}' holds no {wanted} (COCO's boxes); put the file there")
        try:
            self.names, self._entries, self._boxes = read_instances(annotations, self.faults)
        except OSError as error:
            raise DataError(f"{error.filename or root}: can't be read ({error.strerror or error})") from None
        self.most = max(1, *(int((~boxes.crowd).sum()) for boxes in self._boxes.values()))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._entries)

    def __getitem__(self, index: int) -> BoxedImage:
        """The image at a position."""
        entry = self._entries[index]
        boxes = self._boxes.get(entry.image_id) or gather([])
        assert entry.size is not None
        return BoxedImage(entry.image_id, entry.filename, entry.size, entry.path.read_bytes, boxes)


def gather(rows: list[Row]) -> Boxes:
    """The boxes of one image."""
    corners, classes, crowd = ([row[column] for row in rows] for column in range(3))
    return Boxes(np.array(corners, np.float32).reshape(-1, 4), np.array(classes, np.int32), np.array(crowd, np.bool_))


def read_instances(annotations: File, faults: Faults) -> tuple[tuple[str, ...], list[Entry], dict[int, Boxes]]:
    """Read instances_NAME.json.

    Args:
        annotations: the file.
        faults: what to do about faults.

    Returns:
        Names of the classes, by number; the images, each with its size; the boxes of each image that has some, by its
        id.

    Raises:
        DataError: no such JSON, or one without boxes; other faults as `faults` has it.
    """
    try:
        content: Any = read_json(annotations)
        images, rows, categories = (list(content[name]) for name in ("images", "annotations", "categories"))
    except DataError as error:
        raise DataError(f"{annotations}: not COCO instances ({error})") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotations}: not COCO instances ({type(error).__name__}: {error})") from None
    if not any("bbox" in row for row in rows if isinstance(row, dict)):
        raise DataError(f"{annotations}: holds no boxes (no annotation has a 'bbox'); give COCO's instances file")
    names = read_categories(annotations.name, categories)
    entries, rejected = read_images(annotations.name, images, find_images(Path(str(annotations))), faults)
    for image_id, entry in list(entries.items()):
        if entry.size is None or min(entry.size) < 1:
            rejected.add(image_id)
            del entries[image_id]
            faults.report(
                "malformed image", f"{annotations.name}: image id {image_id}: needs 'width' and 'height', in pixels"
            )

    found: dict[int, list[Row]] = defaultdict(list)
    for position, row in enumerate(rows):
        where = f"{annotations.name}: annotations[{position}]"
        image_id = get(row, "image_id")
        if image_id in entries:
            size = entries[image_id].size
            assert size is not None
            if (read := read_box(row, size, names, where, faults)) is not None:
                found[image_id].append(read)
        elif image_id not in rejected:
            faults.report("missing image", f"{where}: image id {image_id} is not among the file's images")
    if not found:
        raise DataError(f"{annotations}: holds no usable box: {faults.summary()}")
    return names, list(entries.values()), {image_id: gather(rows) for image_id, rows in found.items()}


def read_categories(source: str, categories: list[Any]) -> tuple[str, ...]:
    """Names of the classes by number, empty between them, as the categories of a file of this name tell."""
    names = {get(each, "id"): get(each, "name") for each in categories}
    for number, name in names.items():
        if not is_id(number) or not 1 <= number <= MOST_CLASSES or not isinstance(name, str) or not name:
            raise DataError(
                f"{source}: category {number!r}: needs 'id', a whole number from 1 to {MOST_CLASSES}, and 'name'; "
                "number the categories from 1"
            )
    return tuple(names.get(number + 1, "") for number in range(max(names, default=0)))


def read_box(row: Any, size: tuple[int, int], names: tuple[str, ...], where: str, faults: Faults) -> Row | None:
    """The box of an annotation, cut at the edges of an image of this width and height; None where there is none."""
    box, number, (width, height) = get(row, "bbox"), get(row, "category_id"), size
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        faults.report("malformed box", f"{where}: needs 'bbox', four numbers: left, top, width and height in pixels")
        return None
    if not is_id(number) or not 1 <= number <= len(names) or not names[number - 1]:
        faults.report("unknown category", f"{where}: category id {number!r} is not among the file's categories")
        return None
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    if min(left, top) < -OUTSIDE or right > width + OUTSIDE or bottom > height + OUTSIDE:
        faults.report("box outside", f"{where}: box {box} reaches out of its image of {width} x {height} pixels")
        return None
    if min(box[2:]) == 0:  # COCO has some
        faults.note("empty box", f"{where}: box {box} has no area")
        return None
    corners = [max(top, 0) / height, max(left, 0) / width, min(bottom, height) / height, min(right, width) / width]
    return corners, number - 1, bool(get(row, "iscrowd"))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
