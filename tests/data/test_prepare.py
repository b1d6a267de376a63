"""Sets prepared as records: every id, caption and pixel, or a sentence and nothing half-written."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from filelock import FileLock
from PIL import Image

from dualcap_jax.data import prepare as prepare_module
from dualcap_jax.data.coco_captions_2017 import CocoCaptions2017, CocoConfig
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import crop_image, decode_image, prepare_image
from dualcap_jax.data.pipeline import train_iterator
from dualcap_jax.data.prepare import FolderCaptions, FolderConfig, Pictures, prepare
from dualcap_jax.data.prepared import read_metadata
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import iterate_captions, open_source
from dualcap_jax.data.text import train_tokenizer
from dualcap_jax.evaluate import refuse_trained_on

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_coco.py"
TRAIN, VALIDATION = 12, 5


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize((128 - seed, 48), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def write_coco(root: Path, train: int = TRAIN) -> None:
    """A COCO 2017 layout; ids are far apart and captions come in ones to threes."""
    (root / "annotations").mkdir(parents=True)
    number = 0
    for name, numbers in (("train2017", range(train)), ("val2017", range(train, train + VALIDATION))):
        (root / name).mkdir()
        images, annotations = [], []
        for i in numbers:
            filename = f"{7 * i + 3:012d}.jpg"
            (root / name / filename).write_bytes(jpeg(i))
            images.append({"id": 7 * i + 3, "file_name": filename, "width": 128 - i, "height": 48})
            for j in range(1 + i % 3):
                number += 1
                annotations.append(
                    {"id": number, "image_id": 7 * i + 3, "caption": f"Picture {i}, caption {j} 🐕.\r\n"}
                )
        content = {"images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{name}.json").write_text(json.dumps(content))


@pytest.fixture
def coco(tmp_path):
    write_coco(tmp_path / "coco")
    return tmp_path / "coco"


def write_karpathy(root: Path) -> None:
    """Images 0 to 9 as train and restval; 10 and 11 of train2017 are tested on."""
    splits = ["train"] * 8 + ["restval"] * 2 + ["test"] * 2 + ["val"] * 5
    images = [
        {"cocoid": 7 * i + 3, "split": split, "sentences": [{"raw": f"Sentence {i}.", "sentid": i}]}
        for i, split in enumerate(splits)
    ]
    (root / "dataset_coco.json").write_text(json.dumps({"images": images}))


def pack(root: Path) -> None:
    """Everything as cocodataset.org zips it."""
    for name, archive in (
        ("annotations", "annotations_trainval2017"),
        ("train2017", "train2017"),
        ("val2017", "val2017"),
    ):
        with zipfile.ZipFile(root / f"{archive}.zip", "w") as zipped:
            for path in sorted((root / name).iterdir()):
                zipped.write(path, f"{name}/{path.name}")
                path.unlink()
        (root / name).rmdir()


def coco_builder(out: Path, **config) -> CocoCaptions2017:
    config = CocoConfig(**{"name": "trial", **config})
    return CocoCaptions2017(config=config, data_dir=str(out), file_format="array_record")


def folder_builder(out: Path, **config) -> FolderCaptions:
    return FolderCaptions(config=FolderConfig(name="trial", **config), data_dir=str(out), file_format="array_record")


def data_config(root: Path, **settings) -> DataConfig:
    return DataConfig(root=str(root), **{"image_size": 16, "max_length": 12, "read_threads": 0, **settings})


def examples(directory: Path):
    """The training records as tensorflow-datasets itself reads them; it would decode pictures with TensorFlow."""
    decoders = {"image": tfds.decode.SkipDecoding()}
    return tfds.builder_from_directory(str(directory)).as_data_source(split="train", decoders=decoders)


def records(source) -> list:
    return [
        (record.image_id, record.filename, record.captions, record.read_image())
        for record in map(source.__getitem__, range(len(source)))
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_every_id_caption_and_byte_is_there(coco, zipped, tmp_path):
    expected = {split: records(open_source(data_config(coco), split)) for split in ("train", "validation")}
    if zipped:
        pack(coco)
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    for split, there in expected.items():
        source = open_source(data_config(tmp_path / "out"), split)
        assert records(source) == there
        assert source.caption_counts.tolist() == [len(captions) for _, _, captions, _ in there]
        assert list(source.filenames) == [filename for _, filename, _, _ in there]
    ids = []
    for example in examples(directory):
        assert decode_image(example["image"]).size == (example["width"], example["height"])
        ids += [int(number) for number in example["captions"]["id"]]
    assert ids == list(range(1, len(ids) + 1))


def test_it_needs_no_tensorflow(coco, tmp_path):
    program = f"""
import sys
from pathlib import Path
from tests.data.test_prepare import coco_builder, data_config, open_source, prepare, records
prepare(coco_builder(Path({str(tmp_path / "out")!r})), Path({str(coco)!r}))
print(len(records(open_source(data_config(Path({str(tmp_path / "out")!r})), "train"))), "tensorflow" in sys.modules)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout == f"{TRAIN} False\n", done.stderr


def test_a_set_of_many_files_is_in_order(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD", 5)
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    assert len(list(directory.glob("*train*"))) == 3
    source = open_source(data_config(tmp_path / "out"), "train")
    assert records(source) == records(open_source(data_config(coco), "train"))


def test_cropped_pictures_are_what_the_model_reads(coco, tmp_path):
    prepare(coco_builder(tmp_path / "out", pictures=Pictures(16, 20, "bicubic", 90)), coco)
    config = data_config(tmp_path / "out", resize=20, interpolation="bicubic")
    source, original = open_source(config, "train"), open_source(data_config(coco), "train")
    tokenizer = train_tokenizer(iterate_captions(source), 300)
    stored = {}
    for index in range(len(source)):
        buffer = io.BytesIO()
        cropped = prepare_image(original[index].read_image(), 16, 20, "bicubic")
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
def test_pictures_of_another_crop_are_refused(coco, tmp_path, settings, message):
    prepare(coco_builder(tmp_path / "out", pictures=Pictures(16, 20, "bicubic")), coco)
    with pytest.raises(DataError, match=message):
        open_source(data_config(tmp_path / "out", **settings), "train")


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


def test_a_folder_is_prepared_as_it_would_be_read(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "captions.jsonl").open("w") as file:
        for i in range(6):
            (folder / f"{i}.jpg").write_bytes(jpeg(i))
            file.write(json.dumps({"image": f"{i}.jpg", "captions": [f"One {i}.", f"Two {i}."]}) + "\n")
    data = DataConfig(validation_fraction=0.4, split_seed=3)
    prepare(folder_builder(tmp_path / "out", data=data), folder)
    for split in ("train", "validation"):
        expected = records(open_source(replace(data, root=str(folder)), split))
        assert records(open_source(data_config(tmp_path / "out"), split)) == expected


@pytest.mark.parametrize(
    ("lacking", "message"),
    [
        ("annotations", "neither annotations nor annotations_trainval2017.zip, which is to be had from http"),
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


def damage(coco: Path, kind: str) -> None:
    path = coco / "train2017" / "000000000010.jpg"
    listed = json.loads((coco / "annotations" / "captions_train2017.json").read_text())
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:300])
    elif kind == "other size":
        path.write_bytes(jpeg(9))
    elif kind == "missing":
        path.unlink()
    elif kind == "twice":
        listed["images"].append(listed["images"][1])
    else:
        listed["annotations"].append({"id": 1000, "image_id": 999, "caption": "Of nothing."})
    (coco / "annotations" / "captions_train2017.json").write_text(json.dumps(listed))


@pytest.mark.parametrize(
    ("kind", "message", "left"),
    [
        ("truncated", "image '000000000010.jpg': broken picture", TRAIN - 1),
        ("other size", "image '000000000010.jpg': is 119 x 48 pixels, its annotation says 127 x 48", TRAIN - 1),
        ("missing", "image '000000000010.jpg' does not exist", TRAIN - 1),
        ("twice", "image id 10 was given before", TRAIN),
        ("of nothing", "image id 999 is not among the file's images", TRAIN),
    ],
)
def test_a_fault_stops_the_preparation_or_is_skipped_and_counted(coco, tmp_path, kind, message, left):
    damage(coco, kind)
    with pytest.raises(DataError, match=message):
        prepare(coco_builder(tmp_path / "out"), coco)
    with pytest.raises(DataError, match="no prepared set"):
        open_source(data_config(tmp_path / "out"), "train")
    builder = coco_builder(tmp_path / "out", on_error="skip")
    prepare(builder, coco)
    assert message in builder.faults.summary()
    assert len(open_source(data_config(tmp_path / "out"), "train")) == left


def test_a_file_of_nothing_but_broken_pictures_is_passed_over_and_a_split_of_them_refused(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare_module, "SHARD", 4)
    paths = sorted((coco / "train2017").iterdir())
    for path in paths[:4]:
        path.write_bytes(b"broken")
    prepare(coco_builder(tmp_path / "out", on_error="skip"), coco)
    source = open_source(data_config(tmp_path / "out"), "train")
    assert [record[1] for record in records(source)] == [path.name for path in paths[4:]]
    for path in paths:
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"train: not one image can be used: skipped {TRAIN}"):
        prepare(coco_builder(tmp_path / "other", on_error="skip"), coco)


def test_a_turned_picture_has_the_size_of_its_annotation_either_way(coco, tmp_path):
    path = coco / "train2017" / "000000000010.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.open(path).save(path, exif=exif)
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    example = examples(directory)[1]
    assert (example["width"], example["height"]) == (48, 127)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        # array_record's, as seen on a full file system
        RuntimeError('Failed to finalize writing of split "train": write() failed: No space left on device; writing x'),
    ],
)
def test_a_full_disk_leaves_nothing_that_is_read_and_what_was_resized(coco, tmp_path, monkeypatch, error):
    written = 0

    def write_to_a_small_disk(path, data):
        nonlocal written
        written += 1
        if written > 7:
            raise error
        write_whole(path, data)

    write_whole = prepare_module.write_whole
    monkeypatch.setattr(prepare_module, "write_whole", write_to_a_small_disk)
    pictures = Pictures(16, 16)
    with pytest.raises(DataError, match=r"the disk is full\. Nothing half-written counts"):
        prepare(coco_builder(tmp_path / "out", pictures=pictures), coco)
    with pytest.raises(DataError, match="no prepared set"):
        open_source(data_config(tmp_path / "out"), "train")

    monkeypatch.setattr(prepare_module, "write_whole", write_whole)
    cropped = []
    monkeypatch.setattr(prepare_module, "crop_image", lambda *args: (cropped.append(1), crop_image(*args))[1])
    directory = prepare(coco_builder(tmp_path / "out", pictures=pictures), coco)
    assert len(cropped) == TRAIN + VALIDATION - 7
    assert len(open_source(data_config(tmp_path / "out"), "train")) == TRAIN
    assert sorted(path.name for path in directory.parent.iterdir()) == [".lock", "1.0.0"]


def test_two_preparations_at_once(coco, tmp_path):
    builder = coco_builder(tmp_path / "out")
    Path(builder.data_dir).parent.mkdir(parents=True)
    with (
        FileLock(Path(builder.data_dir).parent / ".lock"),
        pytest.raises(DataError, match="another preparation is at work"),
    ):
        prepare(builder, coco)
    prepare(builder, coco)


def test_a_set_that_is_there_is_left_alone_and_one_of_another_source_refused(coco, tmp_path, capsys):
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    written = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    prepare(coco_builder(tmp_path / "out"), coco)
    assert "is there already; delete it to prepare it anew" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == written
    write_coco(tmp_path / "other")
    with pytest.raises(DataError, match=f"was prepared from {coco}; delete it, or write to another directory"):
        prepare(coco_builder(tmp_path / "out"), tmp_path / "other")


def test_of_several_sets_in_one_place_one_must_be_named(coco, tmp_path):
    directory = prepare(coco_builder(coco), coco)
    with pytest.raises(DataError, match=r"holds annotations/captions_\*\.json and a prepared set: name that one"):
        open_source(data_config(coco), "train")
    prepare(coco_builder(coco, name="squares", pictures=Pictures(16, 16)), coco)
    with pytest.raises(DataError, match="holds several prepared sets: name one of"):
        open_source(data_config(coco), "train")
    assert len(open_source(data_config(directory), "train")) == TRAIN


def run_script(*args, **kwargs) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        **kwargs,
    )


def test_a_killed_preparation_goes_on_where_it_was(tmp_path):
    write_coco(tmp_path / "coco", train=60)
    for i in range(60):  # large enough to take a moment each
        path = tmp_path / "coco" / "train2017" / f"{7 * i + 3:012d}.jpg"
        Image.open(io.BytesIO(jpeg(i))).resize((1600, 1200)).save(path)
    listed = json.loads((tmp_path / "coco" / "annotations" / "captions_train2017.json").read_text())
    for image in listed["images"]:
        image |= {"width": 1600, "height": 1200}
    (tmp_path / "coco" / "annotations" / "captions_train2017.json").write_text(json.dumps(listed))
    args = "--manual-dir", tmp_path / "coco", tmp_path / "out", "--image-size", 380, "--threads", 1
    killed = run_script(*args)
    staging = tmp_path / "out" / "coco_captions_2017" / "2017_380" / "resized"
    while len(list(staging.glob("*.jpg")) if staging.is_dir() else []) < 5:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = {path: path.stat().st_mtime_ns for path in staging.glob("*.jpg")}
    assert 5 <= len(kept) < 60
    with pytest.raises(DataError, match="no prepared set"):
        open_source(data_config(tmp_path / "out"), "train")

    out, err = run_script(*args).communicate()
    assert "train: 60 images (published: 118,287), 120 captions" in out, err
    assert not staging.exists()
    assert len(open_source(data_config(tmp_path / "out", image_size=380), "train")) == 60
    out, err = run_script(*args).communicate()
    assert "train: 60 images" in out, err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["out"], "give --manual-dir (COCO's downloads) or --folder"),
        (["--folder", "nowhere", "out"], "'nowhere' is not a directory"),
        (["--folder", ".", "out"], "holds no annotations"),
        (["--folder", ".", "out", "--image-size", "0"], "image_size=0: must be at least 1"),
        (["--folder", ".", "out", "--image-size", "9", "--resize", "8"], "resize=8: must be at least the image size"),
        (["--folder", ".", "out", "--threads", "0"], "--threads 0: must be at least 1"),
    ],
)
def test_a_mistake_is_told_in_a_line(tmp_path, args, message):
    script = run_script(*args, cwd=tmp_path)
    _, err = script.communicate()
    assert script.returncode == 2
    assert message in err
    assert "Traceback" not in err
