"""COCO 2017 out of its downloads, in both divisions."""

import json
import zipfile

import pytest

from dualcap_jax.data.prepared.reader import read_metadata
from dualcap_jax.data.prepared.writer import prepare
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import open_source
from dualcap_jax.evaluate import refuse_trained_on

from .sets import (
    VALIDATION,
    coco_builder,
    data_config,
    pack,
    write_karpathy,
)


@pytest.mark.parametrize("zipped", [False, True])
def test_karpathys_division(coco, tmp_path, zipped):
    write_karpathy(coco)
    if zipped:
        with zipfile.ZipFile(coco / "caption_datasets.zip", "w") as file:
            file.write(coco / "dataset_coco.json", "dataset_coco.json")
        (coco / "dataset_coco.json").unlink()
    directory = prepare(coco_builder(tmp_path / "out", division="karpathy"), coco)
    assert list(read_metadata(directory)["splits"]) == ["train", "restval", "val", "test"]
    config = data_config(tmp_path / "out")
    train, test = open_source(config, "train"), open_source(config, "test")
    assert [train[i].image_id for i in range(len(train))] == [7 * i + 3 for i in range(10)]
    assert train[9].captions == ("Sentence 9.",)
    assert [test[i].image_id for i in range(len(test))] == [73, 80]
    assert len(open_source(config, "validation")) == VALIDATION


def test_what_was_trained_on_in_one_division_is_not_scored_in_the_other(coco, tmp_path):
    write_karpathy(coco)
    prepare(coco_builder(tmp_path / "karpathy", division="karpathy"), coco)
    prepare(coco_builder(tmp_path / "2017"), coco)
    for trained in (tmp_path / "2017", coco):
        with pytest.raises(DataError, match="2 images of test are trained on too, such as '000000000073.jpg'"):
            refuse_trained_on(data_config(trained), data_config(tmp_path / "karpathy"), "test")
        refuse_trained_on(data_config(trained), data_config(tmp_path / "karpathy"), "validation")
    refuse_trained_on(data_config(tmp_path / "karpathy"), data_config(tmp_path / "2017"), "validation")


def test_an_image_in_two_of_karpathys_splits_is_refused(coco, tmp_path):
    write_karpathy(coco)
    content = json.loads((coco / "dataset_coco.json").read_text())
    content["images"].append({**content["images"][0], "split": "test"})
    (coco / "dataset_coco.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="image 3 is listed twice"):
        prepare(coco_builder(tmp_path / "out", division="karpathy"), coco)


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        (
            "annotations",
            "annotations/captions_train2017.json nor annotations_trainval2017.zip, which is to be had from",
        ),
        ("train2017", "neither train2017 nor train2017.zip, which is to be had from http"),
        ("val2017", "neither val2017 nor val2017.zip, which is to be had from http"),
    ],
)
def test_a_download_that_is_missing_is_named_with_its_address(coco, tmp_path, lacking, message):
    (coco / lacking).rename(coco / "elsewhere")
    with pytest.raises(DataError, match=message):
        prepare(coco_builder(tmp_path / "out"), coco)


def test_a_download_that_was_cut_off_is_named(coco, tmp_path):
    pack(coco)
    (coco / "val2017.zip").write_bytes((coco / "val2017.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"val2017.zip: broken or incomplete .* download it again"):
        prepare(coco_builder(tmp_path / "out"), coco)
