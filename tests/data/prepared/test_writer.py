"""Sets prepared as records: every id, caption and pixel, or a sentence and nothing half-written."""

import errno
import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.images import decode_image
from dualcap_jax.data.prepared import writer
from dualcap_jax.data.prepared.writer import Squares, prepare
from dualcap_jax.data.reading import ReadingConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import open_source
from dualcap_jax.data.transform import ImageTransform
from dualcap_jax.files import replacing

from .sets import (
    TRAIN,
    VALIDATION,
    coco_builder,
    data_config,
    examples,
    folder_builder,
    jpeg,
    pack,
    records,
    write_coco,
)

SCRIPT = Path(__file__).parents[3] / "scripts" / "prepare_coco.py"


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
from dualcap_jax.data.prepared.writer import prepare
from dualcap_jax.data.sources import open_source
from tests.data.prepared.sets import coco_builder, data_config, records
prepare(coco_builder(Path({str(tmp_path / "out")!r})), Path({str(coco)!r}))
print(len(records(open_source(data_config(Path({str(tmp_path / "out")!r})), "train"))), "tensorflow" in sys.modules)
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout == f"{TRAIN} False\n", done.stderr


def test_a_set_of_many_files_is_in_order(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD", 5)
    directory = prepare(coco_builder(tmp_path / "out"), coco)
    assert len(list(directory.glob("*train*"))) == 3
    source = open_source(data_config(tmp_path / "out"), "train")
    assert records(source) == records(open_source(data_config(coco), "train"))


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
        ("truncated", "image '000000000010.jpg': broken image", TRAIN - 1),
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
    builder = coco_builder(tmp_path / "out", reading=ReadingConfig(on_error="skip"))
    prepare(builder, coco)
    assert message in builder.faults.summary()
    assert len(open_source(data_config(tmp_path / "out"), "train")) == left


def test_a_file_of_nothing_but_broken_images_is_passed_over_and_a_split_of_them_refused(coco, tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARD", 4)
    paths = sorted((coco / "train2017").iterdir())
    for path in paths[:4]:
        path.write_bytes(b"broken")
    prepare(coco_builder(tmp_path / "out", reading=ReadingConfig(on_error="skip")), coco)
    source = open_source(data_config(tmp_path / "out"), "train")
    assert [record[1] for record in records(source)] == [path.name for path in paths[4:]]
    for path in paths:
        path.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"train: not one image can be used: skipped {TRAIN}"):
        prepare(coco_builder(tmp_path / "other", reading=ReadingConfig(on_error="skip")), coco)


def test_a_turned_image_has_the_size_of_its_annotation_either_way(coco, tmp_path):
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
    started = itertools.count()

    @contextmanager
    def on_a_small_disk(path):
        if next(started) >= 7:
            raise error
        with replacing(path) as aside:
            yield aside

    monkeypatch.setattr(writer, "replacing", on_a_small_disk)
    squares = Squares(ImageTransform(16, 16))
    with pytest.raises(DataError, match=r"the disk is full\. Nothing half-written counts"):
        prepare(coco_builder(tmp_path / "out", squares=squares), coco)
    with pytest.raises(DataError, match="no prepared set"):
        open_source(data_config(tmp_path / "out"), "train")

    resized = []
    monkeypatch.setattr(writer, "replacing", lambda path: (resized.append(path), replacing(path))[1])
    directory = prepare(coco_builder(tmp_path / "out", squares=squares), coco)
    assert len(resized) == TRAIN + VALIDATION - 7
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
