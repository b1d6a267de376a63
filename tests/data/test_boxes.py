"""Images with boxes: scenes, whose boxes are where the shapes are, and COCO's layout with what may be wrong in it."""

import json

import numpy as np
import pytest
from PIL import Image

from dualcap_jax.data.boxes.config import BoxesConfig
from dualcap_jax.data.boxes.pipeline import open_boxes, train_batches, validation_batches
from dualcap_jax.data.config import ScenesConfig
from dualcap_jax.data.records import DataError

SIDES = 40, 20
"""Width and height."""
BOX = {"id": 1, "image_id": 1, "category_id": 3, "bbox": [10, 5, 20, 10], "iscrowd": 0}


def write(root, annotations=(BOX,), categories=({"id": 1, "name": "cat"}, {"id": 3, "name": "dog"}), split="train"):
    """A set of one image, half of it black."""
    pixels = np.zeros((SIDES[1], SIDES[0], 3), np.uint8)
    pixels[:, 20:] = 255
    (root / split).mkdir(parents=True)
    Image.fromarray(pixels).save(root / split / "1.png")
    images = [{"id": 1, "file_name": "1.png", "width": SIDES[0], "height": SIDES[1]}]
    content = {"images": images, "annotations": list(annotations), "categories": list(categories)}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path):
    def made(annotations=(BOX,), **settings) -> BoxesConfig:
        write(tmp_path, annotations)
        write(tmp_path, split="val")
        return BoxesConfig(root=str(tmp_path), image_size=16, **settings)

    return made


def test_boxes_of_scenes_enclose_the_shapes():
    config = BoxesConfig(image_size=96, scenes=ScenesConfig(train=12, validation=12))
    source, _ = open_boxes(config)
    assert len(source.names) == len(set(source.names)) == 24
    seen = 0
    for index in range(len(source)):
        record = source[index]
        image = source.transform.squash(source.transform.open(record.read_image())).astype(int)
        drawn = np.abs(image - image[0, 0]).max(-1) > 60
        inside = np.zeros_like(drawn)
        for top, left, bottom, right in record.boxes.corners * 96:
            rows, columns = slice(int(top), int(np.ceil(bottom)) + 1), slice(int(left), int(np.ceil(right)) + 1)
            inside[rows, columns] = True
            ys, xs = np.nonzero(drawn[rows, columns])
            ends = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]) + [rows.start, columns.start] * 2
            np.testing.assert_allclose(ends, [top, left, bottom, right], atol=1.5)
            seen += 1
        assert not (drawn & ~inside).any()
    assert seen > 20


def test_boxes_are_squashed_and_mirrored_with_their_image(coco):
    config = coco([BOX | {"bbox": [0, 0, 20, 20]}], flip=True)  # the dark half
    source, validation = open_boxes(config)
    assert source.names == ("cat", "", "dog")
    batches, seen = train_batches(source, config, 1, 0), set()
    for batch, _ in zip(batches, range(12), strict=False):
        is_mirrored = bool(batch["image"][0, 0, 0, 0])
        seen.add(is_mirrored)
        np.testing.assert_allclose(batch["boxes"][0, 0], [0, 8, 16, 16] if is_mirrored else [0, 0, 16, 8])
    assert seen == {True, False}

    (batch,) = validation_batches(validation, config, 2, 5)
    np.testing.assert_allclose(batch["boxes"][0, 0], [4, 4, 12, 12])
    assert batch["labels"].tolist() == [[3], [0]]
    assert batch["image_id"].tolist() == [1, -1]


def test_boxes_of_crowds_are_not_trained_on_and_empty_ones_are_passed_over(coco):
    crowd, empty = BOX | {"id": 2, "iscrowd": 1}, BOX | {"id": 3, "bbox": [3, 3, 0, 4]}
    source, _ = open_boxes(config := coco([BOX, crowd, empty]))
    assert source[0].boxes.crowd.tolist() == [False, True]
    assert next(train_batches(source, config, 1, 0))["labels"].tolist() == [[3]]
    assert source.faults.counts == {"empty box": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bbox": None}, "annotations[0]: needs 'bbox', four numbers"),
        ({"bbox": [1, 2, -3, 4]}, "annotations[0]: needs 'bbox', four numbers"),
        ({"bbox": [30, 5, 20, 10]}, "box [30, 5, 20, 10] reaches out of its image of 40 x 20 pixels"),
        ({"category_id": 2}, "category id 2 is not among the file's categories"),
        ({"category_id": 91}, "category id 91 is not among the file's categories"),
        ({"image_id": 7}, "image id 7 is not among the file's images"),
    ],
)
def test_a_broken_box_is_told_in_a_line_or_skipped(coco, change, message):
    config = coco([BOX | change, BOX])
    with pytest.raises(DataError) as error:
        open_boxes(config)
    assert f"instances_train.json: annotations[0]: {message.removeprefix('annotations[0]: ')}" in str(error.value)
    assert "--data.on_error skip" in str(error.value)
    source, _ = open_boxes(BoxesConfig(root=config.root, on_error="skip"))
    assert len(source.faults.skipped) == len(source[0].boxes.classes) == 1


def test_sets_without_boxes_are_refused(coco, tmp_path):
    config, path = coco(), tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())

    def refused(**changes) -> str:
        path.write_text(json.dumps(content | changes))
        with pytest.raises(DataError) as error:
            open_boxes(config)
        return str(error.value)

    assert "instances_train.json: holds no boxes" in refused(annotations=[])
    assert "instances_train.json: holds no boxes" in refused(
        annotations=[{"id": 1, "image_id": 1, "caption": "A dog."}]
    )
    assert "not COCO instances (TypeError" in refused(categories=None)
    assert "number the categories from 1" in refused(categories=[{"id": 0, "name": "cat"}])
    assert "the categories to validate on are not" in refused(categories=[{"id": 3, "name": "dog"}])
    path.unlink()
    with pytest.raises(DataError, match=r"holds no annotations/instances_train\*.json"):
        open_boxes(config)
    with pytest.raises(DataError, match="'nowhere' is not a directory"):
        open_boxes(BoxesConfig(root="nowhere"))
