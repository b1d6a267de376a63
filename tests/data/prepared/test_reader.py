"""Prepared sets read again: the index without the images, the images as they were stored."""

import io
import json
import pickle
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType

import numpy as np
import pytest
from PIL import Image

from dualcap_jax import evaluate
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import decode_image
from dualcap_jax.data.pipeline import train_iterator
from dualcap_jax.data.prepared.reader import PreparedSource, read_metadata
from dualcap_jax.data.prepared.writer import Squares, prepare
from dualcap_jax.data.records import DataError, Record
from dualcap_jax.data.sources import fitting, iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.scoring import _training_captions

from .sets import (
    TRAIN,
    coco_builder,
    data_config,
    records,
)

ROOT = Path(__file__).parents[3]


def test_cropped_images_are_what_the_model_reads(coco, tmp_path):
    prepare(coco_builder(tmp_path / "out", squares=Squares(ImageTransform(16, 20, "bicubic"), 90)), coco)
    config = data_config(tmp_path / "out", resize=20, interpolation="bicubic")
    source, original = open_source(config, "train"), open_source(data_config(coco), "train")
    tokenizer = train_tokenizer(iterate_captions(source), 300)
    stored = {}
    for index in range(len(source)):
        buffer = io.BytesIO()
        cropped = ImageTransform(16, 20, "bicubic").decode(original[index].read_image())
        Image.fromarray(cropped).save(buffer, "JPEG", quality=90)
        assert source[index].read_image() == buffer.getvalue()
        stored[source[index].image_id] = np.asarray(decode_image(buffer.getvalue()))
    batch = next(train_iterator(source, tokenizer, config, TRAIN, 0))
    for image_id, image in zip(batch["image_id"], batch["image"], strict=True):
        np.testing.assert_array_equal(image, stored[int(image_id)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 20}, "prepared with image_size 16, but data.image_size is 20"),
        ({}, "prepared with resize 20, but data.resize is 16"),
        ({"resize": 20}, "prepared with interpolation bicubic, but data.interpolation is bilinear"),
    ],
)
def test_images_of_another_crop_are_refused(coco, tmp_path, settings, message):
    prepare(coco_builder(tmp_path / "out", squares=Squares(ImageTransform(16, 20, "bicubic"))), coco)
    with pytest.raises(DataError, match=message):
        open_source(data_config(tmp_path / "out", **settings), "train")


def test_of_several_sets_in_one_place_one_must_be_named(coco, tmp_path):
    directory = prepare(coco_builder(coco), coco)
    with pytest.raises(
        DataError, match=r"holds annotations/captions_\{train,val\}\*\.json \(COCO\) and a prepared set: name that one"
    ):
        open_source(data_config(coco), "train")
    prepare(coco_builder(coco, name="squares", squares=Squares(ImageTransform(16, 16))), coco)
    with pytest.raises(DataError, match="holds several prepared sets: name one of"):
        open_source(data_config(coco), "train")
    assert len(open_source(data_config(directory), "train")) == TRAIN


def without_texts(directory: Path) -> None:
    """Make the index what the first version wrote."""
    metadata = read_metadata(directory)
    for index in metadata["splits"].values():
        for name in ("image_ids", "texts", "sizes"):
            del index[name]
    (directory / "metadata.json").write_text(json.dumps(metadata))


def held_images(something) -> int:
    """JPEGs in memory that records, or what they hold, lead to."""
    parts = ()
    if isinstance(something, dict | list | tuple):
        parts = something.values() if isinstance(something, dict) else something
    elif isinstance(something, Record | PreparedSource):
        parts = vars(something).values()
    elif isinstance(something, partial):
        parts = (something.func, something.args)
    elif isinstance(something, MethodType):
        parts = (something.__self__,)
    elif isinstance(something, FunctionType):
        parts = [cell.cell_contents for cell in something.__closure__ or ()]
    return something.startswith(b"\xff\xd8") if isinstance(something, bytes) else sum(map(held_images, parts))


@pytest.mark.parametrize("first_version", [False, True])
def test_records_hold_no_images(coco, tmp_path, first_version):
    expected = records(open_source(data_config(coco), "train"))
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    if first_version:
        without_texts(directory)
    source = open_source(data_config(tmp_path / "out"), "train")
    assert records(source) == expected
    kept = [source[index] for index in range(len(source))]
    assert [record.size for record in kept] == [(128 - i, 48) for i in range(TRAIN)]
    assert held_images([kept[0].read_image()]) == 1
    assert held_images(kept) == 0
    assert records(pickle.loads(pickle.dumps(source))) == expected


def test_captions_are_had_without_reading_images(coco, tmp_path, monkeypatch):
    prepare(coco_builder(tmp_path / "out"), coco)
    config = data_config(tmp_path / "out")
    read, example = [], PreparedSource._example
    monkeypatch.setattr(PreparedSource, "_example", lambda *args: (read.append(args), example(*args))[1])
    source = open_source(config, "train")
    captions = [record.captions for record in map(source.__getitem__, range(len(source)))]
    assert list(iterate_captions(source)) == [caption for each in captions for caption in each]
    assert _training_captions(config, needed=True) == captions
    assert source.caption_counts.tolist() == list(map(len, captions))
    assert source.caption_counts is source.caption_counts  # made anew for each example, it took longer than the image
    assert not read
    source[3].read_image()
    assert len(read) == 1


@pytest.mark.parametrize("squares", [None, Squares(ImageTransform(16, 20, "bicubic"), 90)])
def test_a_fitting_configuration_reads_what_is_there(coco, tmp_path, squares):
    prepare(coco_builder(tmp_path / "out", squares=squares), coco)
    config = fitting(str(tmp_path / "out"))
    assert config.transform == (squares or DataConfig()).transform
    source = open_source(config, "train")
    assert source.transform == (ImageTransform(16, 16, "bicubic") if squares else config.transform)


def test_a_set_of_squares_is_prepared_described_and_scored_as_the_docs_have_it(coco, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    monkeypatch.chdir(tmp_path)
    import describe_data
    import prepare_coco

    assert prepare_coco.main(["--manual-dir", str(coco), "out", "--image-size", "16", "--quality", "90"]) == 0
    assert describe_data.main(["out", "--out", "below/told.v1"]) == 0
    assert "written: below/told.v1.md, below/told.v1.png" in capsys.readouterr().out
    source = open_source(fitting("out"), "validation")
    captions = [{"image_id": source[i].image_id, "caption": source[i].captions[0]} for i in range(len(source))]
    (tmp_path / "theirs.json").write_text(json.dumps(captions))
    assert evaluate.main(["--captions", "theirs.json", "--root", "out", "--metrics", "bleu"]) == 0
    assert "BLEU-1" in capsys.readouterr().out
