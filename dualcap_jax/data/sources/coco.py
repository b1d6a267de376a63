"""COCO's layout: annotations/captions_NAME.json, with the images in NAME/."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dualcap_jax.data.archives import File, Place
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.names import look_up
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.data.sources.entries import SPLIT_NAMES, Entry, add_caption, get, is_id, is_name, with_captions
from dualcap_jax.data.sources.places import find_places
from dualcap_jax.data.sources.texts import read_json

NAME = "annotations/captions_{train,val}*.json (COCO)"
MEND = "Put the annotations of '{split}' beside the others"


def is_in(root: Path) -> bool:
    """See `Layout`."""
    return bool(find_annotations(root))


def read_split(config: DataConfig, split: str, faults: Faults) -> tuple[list[Entry], list[str]]:
    """See `Layout`."""
    found = find_annotations(Path(config.root))
    entries = read_coco(found[split], find_images(found[split]), faults) if split in found else []
    return entries, sorted(found)


def read_coco(annotations: File, places: Sequence[Place], faults: Faults) -> list[Entry]:
    """Read one split of COCO's captions.

    Args:
        annotations: captions_NAME.json.
        places: where its images lie.
        faults: what to do about faults.

    Raises:
        DataError: no such JSON; other faults as `faults` has it.
    """
    try:
        content: Any = read_json(annotations)
        images, rows = list(content["images"]), list(content["annotations"])
    except DataError as error:
        raise DataError(f"{annotations}: not COCO captions ({error})") from None
    except (KeyError, TypeError) as error:
        raise DataError(f"{annotations}: not COCO captions ({type(error).__name__}: {error})") from None

    entries, rejected = read_images(annotations.name, images, places, faults)
    seen: set[int] = set()
    for position, row in enumerate(rows):
        where = f"{annotations.name}: annotations[{position}]"
        number, image_id = get(row, "id"), get(row, "image_id")
        if not is_id(number) or not is_id(image_id):
            faults.report("malformed caption", f"{where}: needs 'id' and 'image_id', whole numbers from 0")
        elif number in seen:
            faults.report("duplicate id", f"{where}: annotation id {number} was given before")
        elif image_id in entries:
            seen.add(number)
            add_caption(entries[image_id], number, get(row, "caption"), where, faults)
        elif image_id not in rejected:
            faults.report("missing image", f"{where}: image id {image_id} is not among the file's images")
    return with_captions(entries.values(), annotations.name, faults)


def read_images(
    source: str, images: Sequence[object], places: Sequence[Place], faults: Faults
) -> tuple[dict[int, Entry], set[int]]:
    """The images that a file of COCO's lists.

    Args:
        source: the file's name, for messages.
        images: its list of them.
        places: where they lie.
        faults: what to do about faults.

    Returns:
        Those that are there, by id; and the ids of those reported as missing, whose annotations are no faults of their
        own.
    """
    entries: dict[int, Entry] = {}
    rejected: set[int] = set()
    for position, image in enumerate(images):
        where = f"{source}: images[{position}]"
        image_id, filename = get(image, "id"), get(image, "file_name")
        if not is_id(image_id) or not is_name(filename):
            faults.report("malformed image", f"{where}: needs 'id', a whole number from 0, and 'file_name'")
        elif image_id in entries or image_id in rejected:
            faults.report("duplicate id", f"{where}: image id {image_id} was given before")
        elif (found := look_up((place, filename) for place in places)).file is None:
            rejected.add(image_id)
            faults.report("missing image", f"{where}: image '{filename}' {found.trouble}")
        else:
            sides = get(image, "width"), get(image, "height")
            size = sides if all(isinstance(side, int) for side in sides) else None
            entries[image_id] = Entry(image_id, found.name, found.file, size=size)
    return entries, rejected


def find_annotations(root: Path, kind: str = "captions") -> dict[str, Path]:
    """The annotation file of each split of a COCO layout: captions_train2017.json is "train", and so on.

    Raises:
        DataError: two files for one split.
    """
    found: dict[str, Path] = {}
    for path in sorted(root.glob(f"annotations/{kind}_*.json")):
        name = path.stem.removeprefix(f"{kind}_")
        split = next((split for prefix, split in SPLIT_NAMES.items() if name.startswith(prefix)), None)
        if split in found:
            raise DataError(f"{path.parent}: {found[split].name} and {path.name} are both for {split}: keep one")
        if split is not None:
            found[split] = path
    return found


def find_images(annotations: Path) -> list[Place]:
    """Where the images lie that annotations/KIND_NAME.json is about: NAME/, or in images/.

    Raises:
        DataError: there is no such folder.
    """
    root, name = annotations.parent.parent, annotations.stem.partition("_")[2]
    places = find_places(root, name, f"images/{name}")
    if not places:
        raise DataError(
            f"{annotations.name}: its images' directory '{root / name}' does not exist, nor '{root / 'images' / name}'"
        )
    return places
