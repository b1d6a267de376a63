"""Captions beside images: Hugging Face's imagefolder, webdataset's tars, a text for each image; and what goes first."""

import gzip
import json

import pytest

from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import LAYOUTS

from .sets import images, jpeg, opened, pack_tar, read, read_images, write


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# -- imagefolder


@pytest.mark.parametrize("key", ["text", "caption"])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_imagefolder_with_metadata_in_each_splits_folder(tmp_path, key, form):
    for number, folder in enumerate(("train", "validation", "test")):
        row = {"file_name": "sub/a.jpg", key: f"Of {folder}."}
        table = f"file_name,{key}\nsub/a.jpg,Of {folder}.\n"
        write(tmp_path / folder, {f"metadata.{form}": lines(row) if form == "jsonl" else table})
        write(tmp_path / folder, {"sub/a.jpg": jpeg(number)})
    for number, folder in enumerate(("train", "validation", "test")):
        source = opened(tmp_path, folder)
        assert read(tmp_path, folder) == {f"{folder}/sub/a.jpg": (f"Of {folder}.",)}
        assert source[0].image_id == sorted(("train", "validation", "test")).index(folder)
        assert source[0].read_image() == jpeg(number)


@pytest.mark.parametrize("names", [("train", "val"), ("training", "valid"), ("train", "dev"), ("Train", "Validation")])
def test_imagefolder_with_metadata_of_all(tmp_path, names):
    train, validation = names
    rows = (
        {"file_name": f"{train}/a.jpg", "text": ["A dog.", "A pup."]},
        {"file_name": f"{validation}/b.jpg", "text": "x"},
    )
    write(tmp_path, {"metadata.jsonl": lines(*rows), f"{train}/a.jpg": jpeg(), f"{validation}/b.jpg": jpeg(1)})
    assert read(tmp_path) == {f"{train}/a.jpg": ("A dog.", "A pup.")}
    assert read(tmp_path, "validation") == {f"{validation}/b.jpg": ("x",)}


def test_imagefolder_without_splits_is_divided(tmp_path):
    names = [f"{n}.jpg" for n in range(10)]
    write(tmp_path, {"metadata.jsonl": lines(*({"file_name": n, "text": "x"} for n in names)), **images(*names)})
    assert len(opened(tmp_path, validation_fraction=0.2)) == 8
    assert len(opened(tmp_path, "validation", validation_fraction=0.2)) == 2
    with pytest.raises(DataError, match="Put some of its images, with their metadata, into the folder test/"):
        opened(tmp_path, "test")


def test_metadata_twice_or_without_captions_is_told(tmp_path):
    write(tmp_path, {"train/metadata.jsonl": lines({"file_name": "a.jpg", "label": 3}), "train/a.jpg": jpeg()})
    with pytest.raises(DataError, match=r'train/metadata.jsonl:1: is not \{"file_name": "NAME", "text": "..."\}'):
        read(tmp_path)
    write(tmp_path, {"train/metadata.csv": "file_name,text\n"})
    with pytest.raises(DataError, match="train: holds metadata.jsonl and metadata.csv: keep one of them"):
        read(tmp_path)


# -- webdataset


def sample(number, ending="txt", text=None):
    content = {"json": {"caption": f"Image {number}.", "url": "x"}}.get(ending, text or f"Image {number}.")
    return {f"{number:06d}.jpg": jpeg(number), f"{number:06d}.{ending}": content}


@pytest.mark.parametrize("ending", ["txt", "caption", "json"])
def test_webdataset_in_several_shards(tmp_path, ending):
    pack_tar(tmp_path / "set-train-0000.tar", {**sample(1, ending), "__key__.cls": "3", "notes/read.me": "x"})
    pack_tar(tmp_path / "set-train-0001.tar", {**sample(1, ending), **sample(2, ending)})
    pack_tar(tmp_path / "set-val-0000.tar", sample(3, ending))
    assert read(tmp_path) == {
        "set-train-0000.tar/000001.jpg": ("Image 1.",),
        "set-train-0001.tar/000001.jpg": ("Image 1.",),
        "set-train-0001.tar/000002.jpg": ("Image 2.",),
    }
    assert list(read_images(opened(tmp_path)).values()) == [jpeg(1), jpeg(1), jpeg(2)]
    assert read_images(opened(tmp_path, "validation")) == {"set-val-0000.tar/000003.jpg": jpeg(3)}
    with pytest.raises(DataError, match="Put the images of 'test' into a tar with 'test' in its name"):
        opened(tmp_path, "test")


def test_webdataset_by_folders_and_without_splits(tmp_path):
    pack_tar(tmp_path / "a" / "train" / "00.tar", sample(1))
    pack_tar(tmp_path / "a" / "test" / "00.tar", sample(2))
    assert read(tmp_path / "a", "test") == {"test/00.tar/000002.jpg": ("Image 2.",)}
    assert read(tmp_path / "a") == {"train/00.tar/000001.jpg": ("Image 1.",)}
    for number in range(10):
        pack_tar(tmp_path / "b" / f"{number:04d}.tar", sample(number))
    assert len(opened(tmp_path / "b", "validation", validation_fraction=0.2)) == 2


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"000002.jpg": jpeg()}, "image without captions", "image '0.tar/000002.jpg' has no caption"),
        ({**sample(2), "000002.txt": " \n"}, "image without captions", "image '0.tar/000002.jpg' has no caption"),
        ({"2.jpg": jpeg(), "2.json": "{"}, "malformed line", r"0.tar/2.json:1: not JSON \("),
        ({"2.jpg": jpeg(), "2.json": {"url": 3}}, "image without captions", "image '0.tar/2.jpg' has no caption"),
    ],
)
def test_a_fault_in_a_shard_is_an_error_or_skipped_and_counted(tmp_path, change, kind, sentence):
    pack_tar(tmp_path / "0.tar", {**sample(1), **change})
    with pytest.raises(DataError, match=sentence):
        read(tmp_path)
    source = opened(tmp_path, on_error="skip")
    assert list(source.filenames) == ["0.tar/000001.jpg"]
    assert source.faults.counts.pop(kind) == 1


def test_a_tar_that_is_cut_or_compressed_is_told(tmp_path):
    pack_tar(tmp_path / "0.tar", {**sample(1), **sample(2)})
    data = (tmp_path / "0.tar").read_bytes()
    for content in (data[:700], gzip.compress(data)):
        (tmp_path / "0.tar").write_bytes(content)
        with pytest.raises(DataError, match=r"0.tar: no tar, compressed, or incomplete \(.*\); unpack it or"):
            read(tmp_path)


# -- a text beside each image


@pytest.mark.parametrize("ending", ["txt", "caption"])
def test_texts_beside_images_in_folders_of_any_name(tmp_path, ending):
    write(tmp_path, {"10_shapes/img (0).png": jpeg(), f"10_shapes/img (0).{ending}": "A dog.\n\nA pup.\n"})
    write(tmp_path, {"2_test subject/b.jpg": jpeg(1), f"2_test subject/b.{ending}": "A cat."})
    assert read(tmp_path) == {"10_shapes/img (0).png": ("A dog.", "A pup."), "2_test subject/b.jpg": ("A cat.",)}


def test_texts_beside_images_in_folders_named_after_splits(tmp_path):
    for number, folder in enumerate(("train/10_shapes", "val", "test2014")):
        write(tmp_path, {f"{folder}/a.jpg": jpeg(number), f"{folder}/a.txt": folder})
    assert read(tmp_path) == {"train/10_shapes/a.jpg": ("train/10_shapes",)}
    assert read(tmp_path, "validation") == {"val/a.jpg": ("val",)}
    assert read(tmp_path, "test") == {"test2014/a.jpg": ("test2014",)}


def test_an_image_without_a_text_is_a_fault_and_a_text_without_an_image_is_counted(tmp_path):
    write(tmp_path, {"a.jpg": jpeg(), "a.txt": "A dog.", "README.txt": "Mine."})
    assert opened(tmp_path).faults.counts == {"text without image": 1}
    write(tmp_path, {"b.jpg": jpeg()})
    with pytest.raises(DataError, match="image 'b.jpg' has no caption"):
        read(tmp_path)
    assert opened(tmp_path, on_error="skip").faults.counts == {"text without image": 1, "image without captions": 1}


# -- several layouts, or none


def test_what_is_none_of_the_layouts_is_told_all_that_was_looked_for(tmp_path):
    write(tmp_path, {"a.jpg": jpeg(), "notes.txt": "x", "other.json": '[{"image_id": 1, "caption": "x"}]'})
    pack_tar(tmp_path / "x.tar", {"a.jpg": jpeg(), "b.txt": "x"})
    with pytest.raises(DataError) as refused:
        read(tmp_path)
    assert all(layout.NAME in str(refused.value) for layout in LAYOUTS)
    assert "\n" not in str(refused.value)


IN_ORDER = {
    "captions.jsonl": lines({"image": "a.jpg", "caption": "captions.jsonl"}),
    "dataset_flickr8k.json": {
        "images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "dataset_flickr8k.json"}]}]
    },
    "my_train.json": [{"image": "a.jpg", "caption": "my_train.json"}],
    "Flickr8k.token.txt": "a.jpg#0\tFlickr8k.token.txt\n",
    "captions.txt": "image,caption\na.jpg,captions.txt\n",
    "results.csv": "image_name| comment_number| comment\na.jpg| 0| results.csv\n",
    "metadata.jsonl": lines({"file_name": "a.jpg", "text": "metadata.jsonl"}),
    "a.txt": "a.txt",
}


def test_of_several_layouts_the_first_is_read(tmp_path):
    write(tmp_path, {**IN_ORDER, "a.jpg": jpeg()})
    for name in IN_ORDER:
        assert read(tmp_path) == {"a.jpg": (name,)}
        (tmp_path / name).unlink()
