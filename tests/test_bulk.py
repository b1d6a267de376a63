"""Captions of many images into files: each once, whatever they lie in and whatever ends the command."""

import csv
import io
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dualcap_jax import caption
from dualcap_jax.bulk.outputs import read, write
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.sources import open_source

from .commands import command, environment, wait_for
from .test_command_errors import errors_of

FEW = ["--decoding.num-beams", "2", "--decoding.batch-size", "4"]


def draw(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def photos(tmp_path) -> Path:
    """Six images, one of them in a folder below, and one that is broken."""
    folder = tmp_path / "photos"
    for number in range(5):
        draw(folder / f"{number:012d}.png", number)
    draw(folder / "below" / "000000000005.jpg", 5)
    (folder / "000000000009.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def run(finished):
    """Runs the command in this process."""

    def call(*args, code: int = 0) -> int:
        assert caption.main([str(finished[0]), *map(str, args), *FEW]) == code
        return code

    return call


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv"])
def test_what_is_written_can_be_trained_on_as_it_is(photos, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    scores = {"score": -0.5, "log_prob": -4.0}
    names = [f"photos/{number:012d}.png" for number in range(5)]
    others = [{"caption": "A cat.", **scores}, {"caption": "A hen.", **scores}]
    write(Path("photos", name), [{"image": each, "caption": "A dog.", **scores, "others": others} for each in names])
    source = open_source(DataConfig(root="photos", validation_fraction=0.0), "train")
    records = list(map(source.__getitem__, range(len(source))))
    assert [record.filename for record in records] == names
    assert {record.captions for record in records} == {("A dog.", "A cat.", "A hen.")}
    assert records[0].read_image() == Path(names[0]).read_bytes()


@pytest.fixture
def printed(run, photos, capsys) -> dict[str, str]:
    """What the command prints of these images."""
    run(photos, code=1)
    return dict(line.split("\t") for line in capsys.readouterr().out.splitlines())


def test_all_formats_hold_what_is_printed_and_are_read_by_their_usual_readers(run, photos, printed, tmp_path):
    assert len(printed) == 6
    for ending in ("jsonl", "csv", "parquet", "json"):
        run(photos, "--out", tmp_path / f"out.{ending}", code=1)
        assert [row["error"] for row in rows_of(tmp_path / f"out.{ending}.errors.jsonl")] == [
            "not an image in any known format"
        ]
    assert {row["image"]: row["caption"] for row in rows_of(tmp_path / "out.jsonl")} == printed
    for table in (pd.read_csv(tmp_path / "out.csv", keep_default_na=False), pd.read_parquet(tmp_path / "out.parquet")):
        assert dict(zip(table["image"], table["caption"], strict=True)) == printed
        assert list(table["image"]) == list(printed)  # in the order asked for
        assert (table["score"] < 0).all()
    truth = COCO()
    truth.dataset = {"images": [{"id": number} for number in range(6)], "annotations": []}
    truth.createIndex()
    found = truth.loadRes(str(tmp_path / "out.json"))
    assert {each["file_name"]: each["caption"] for each in found.anns.values()} == printed
    assert sorted(found.getImgIds()) == list(range(6))
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".part"]


def test_several_captions_of_an_image_are_nested_in_lines_and_rows_in_tables(run, photos, tmp_path):
    for ending in ("jsonl", "csv", "parquet"):
        run(photos / "below", "--out", tmp_path / f"out.{ending}", "--num-return-sequences", "2")
    (row,) = rows_of(tmp_path / "out.jsonl")
    captions = [row["caption"], row["others"][0]["caption"]]
    assert list(pd.read_csv(tmp_path / "out.csv")["caption"].fillna("")) == captions
    assert list(pd.read_parquet(tmp_path / "out.parquet")["caption"]) == captions


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet", "json"])
def test_a_second_run_does_what_is_missing_and_keeps_the_rest(run, photos, tmp_path, capsys, ending):
    out = tmp_path / f"out.{ending}"
    run(photos / "below", "--out", out)
    before = out.read_bytes()
    capsys.readouterr()
    run(photos / "below", "--out", out)
    assert "1 images, 1 of them before" in capsys.readouterr().out
    assert out.read_bytes() == before
    draw(photos / "000000000009.png", 9)  # mended
    run(photos, "--out", out)
    assert "7 images, 1 of them before" in capsys.readouterr().out
    fresh = tmp_path / f"fresh.{ending}"
    run(photos, "--out", fresh)
    ours, theirs = (list(read(path)) for path in (out, fresh))
    for row, other in zip(ours, theirs, strict=True):
        assert (row["image"], row["caption"]) == (other["image"], other["caption"])
        assert row["score"] == pytest.approx(other["score"], rel=1e-4)  # of another batch


def test_images_that_are_no_longer_asked_for_stay_in_the_file(run, photos, tmp_path):
    out = tmp_path / "out.jsonl"
    run(photos / "below", "--out", out)
    run(photos / "000000000000.png", "--out", out)
    assert [Path(row["image"]).stem for row in rows_of(out)] == ["000000000000", "000000000005"]


def test_what_was_begun_with_other_settings_is_not_gone_on_with(run, photos, tmp_path, capsys, monkeypatch, finished):
    out = tmp_path / "out.jsonl"
    run(photos / "below", "--out", out)
    header = {"run": str(finished[0]), "num_beams": 5}
    (tmp_path / "out.jsonl.part").write_text(json.dumps(header) + "\n")
    args = [finished[0], photos, "--out", out, *FEW]
    code, told = errors_of(caption.main, args, capsys, monkeypatch)
    assert code == 2
    assert "out.jsonl.part: was begun with" in told
    run(photos, "--out", out, "--overwrite", "True", code=1)
    assert len(rows_of(out)) == 6


@pytest.mark.slow
def test_killed_twice_it_ends_with_each_image_once(finished, tmp_path):
    for number in range(160):
        draw(tmp_path / "many" / f"{number:03}.png", number)
    out, part = tmp_path / "out.jsonl", tmp_path / "out.jsonl.part"
    line = command("caption", finished[0], tmp_path / "many", "--out", out, *FEW)
    kept = 0
    for _ in range(2):
        process = subprocess.Popen(line, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda more=kept + 20: part.exists() and part.read_bytes().count(b"\n") > more, process)
        process.kill()
        process.wait()
        kept = part.read_bytes().count(b"\n") - 1
        assert not out.exists()
    done = subprocess.run(line, env=environment(), capture_output=True, text=True, check=True)
    assert f"160 images, {kept} of them before" in done.stdout
    assert [Path(row["image"]).stem for row in rows_of(out)] == [f"{number:03}" for number in range(160)]
    fresh = tmp_path / "fresh.jsonl"
    assert caption.main([str(finished[0]), str(tmp_path / "many"), "--out", str(fresh), *FEW]) == 0
    assert [row["caption"] for row in rows_of(fresh)] == [row["caption"] for row in rows_of(out)]


@pytest.mark.skipif(not shutil.which("bash"), reason="limits the size of files by a shell")
def test_a_full_disk_leaves_what_is_done_and_says_how_to_go_on(run, photos, finished, tmp_path):
    shutil.rmtree(tmp_path / "photos")
    for number in range(24):
        draw(photos / f"{number:03}.png", number)
    out = tmp_path / "out.jsonl"
    line = command("caption", finished[0], photos, "--out", out, *FEW, "--no-compilation-cache")
    settings = {"capture_output": True, "text": True, "env": environment()}
    done = subprocess.run(["bash", "-c", 'ulimit -f 2; exec "$@"', "bash", *line], **settings)
    assert done.returncode == 1, done.stderr
    *_, told = done.stderr.strip().splitlines()
    assert "captions are safe there: make room, and the same command goes on" in told
    safe = int(told.split("; ")[1].split()[0])
    assert safe > 0
    done = subprocess.run(line, check=True, **settings)
    assert f"24 images, {safe} of them before" in done.stdout
    assert len(rows_of(out)) == 24


def test_captions_are_written_beside_images(run, photos, tmp_path, capsys):
    (photos / "000000000009.png").unlink()
    (photos / "000000000000.txt").write_text("mine\n")
    run(photos, "--out", tmp_path / "out.jsonl")
    captions = {row["image"]: row["caption"] for row in rows_of(tmp_path / "out.jsonl")}
    run(photos, "--sidecar", ".txt", "--prefix", "photo of sks, ")
    assert (photos / "000000000000.txt").read_text() == "mine\n"
    for name, text in captions.items():
        if "000000000000" not in name:
            assert Path(name).with_suffix(".txt").read_text() == f"photo of sks, {text}\n"
    run(photos, "--sidecar", ".txt", "--overwrite", "True")
    assert (photos / "000000000000.txt").read_text() == captions[str(photos / "000000000000.png")] + "\n"
    shutil.copy(photos / "000000000000.png", photos / "000000000000.webp")
    run(photos, "--sidecar", ".txt", code=1)
    assert "has the same text file, 000000000000.txt; rename one of them" in capsys.readouterr().err


def test_images_are_found_in_whatever_holds_them_each_once(run, photos, printed, tmp_path, monkeypatch, capsys):
    with tarfile.open(tmp_path / "shard.tar", "w") as tar:
        tar.add(photos / "below" / "000000000005.jpg", "a/000000000005.jpg")
        tar.add(photos / "000000000009.png", "a/notes.txt")
    content = [(photos / f"{number:012d}.png").read_bytes() for number in (0, 1)]
    pq.write_table(pa.table({"image": [{"bytes": each, "path": None} for each in content]}), tmp_path / "hf.parquet")
    paths = ["photos/000000000002.png", "photos/nowhere.png"]
    pq.write_table(pa.table({"id": [1, 2], "shown": paths}), tmp_path / "paths.parquet")
    (photos / "loop").symlink_to(photos)
    (photos / "000000000009.png").unlink()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("photos/000000000003.png\nphotos/below\n./photos/000000000003.png\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("photos/000000000004.png\n"))
    out = tmp_path / "out.jsonl"

    def captions(*args, code=0):
        run(*args, "--out", out, "--overwrite", "True", code=code)
        return {row["image"]: row["caption"] for row in rows_of(out)}

    of = {Path(name).stem: text for name, text in printed.items()}
    assert captions("shard.tar") == {"shard.tar/a/000000000005.jpg": of["000000000005"]}
    assert list(captions("hf.parquet").values()) == [of["000000000000"], of["000000000001"]]
    found = captions("paths.parquet", "--column", "shown", code=1)
    assert found == {"paths.parquet/0": of["000000000002"]}
    assert "No such file" in rows_of(tmp_path / "out.jsonl.errors.jsonl")[0]["error"]
    assert list(captions("@list.txt")) == ["photos/000000000003.png", "photos/below/000000000005.jpg"]
    assert list(captions("-")) == ["photos/000000000004.png"]
    assert len(captions("photos/**/*.*")) == 6
    assert len(captions("photos", "photos/000000000000.png", photos)) == 6


def test_shares_make_up_the_whole(run, photos, printed, tmp_path):
    (photos / "000000000009.png").unlink()
    for number in (1, 2, 3):
        run(photos, "--out", tmp_path / "out.csv", "--shard", f"{number}/3")
    shares = [list(csv.DictReader((tmp_path / f"out-0000{n}-of-00003.csv").open())) for n in (1, 2, 3)]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert {row["image"]: row["caption"] for share in shares for row in share} == printed


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["--out", "out.txt"], "--out out.txt: its ending must be .jsonl, .csv, .parquet, or .json for COCO's results"),
        (
            ["--out", "other.csv"],
            "other.csv: exists, and holds no captions in this format (its columns are a, b)",
        ),
        (["--out", "other.jsonl"], "other.jsonl: exists, and holds no captions in this format"),
        (["--out", "other.json"], "other.json: exists, and holds no captions in this format"),
        (["--out", "other.parquet"], "other.parquet: exists, and holds no captions in this format"),
        (["--out", "photos/below"], "--out photos/below: its ending must be"),
        (["--out", "a.csv", "--sidecar", ".txt"], "--out and --sidecar: give one of them"),
        (["--out", "a.csv", "--shard", "4/3"], "--shard='4/3': must be I/N, with I from 1 to N, such as 3/16"),
        (["--out", "a.csv", "--map", "dog"], "--map: is drawn where captions are printed"),
        (["--sidecar", "txt"], "--sidecar txt: must be an ending, such as .txt"),
        (["--sidecar", ".png"], "--sidecar .png: is an ending of images, which would be overwritten"),
        (["--prefix", "a "], "--prefix: is written into the files of --sidecar, which is not given"),
        (["@nolist.txt"], "@nolist.txt: the list can't be read: No such file or directory"),
        (["plain.parquet"], "plain.parquet: no Parquet file that can be read"),
        (["numbers.parquet"], "numbers.parquet: no column that looks like images; give --column NAME, of a"),
        (["numbers.parquet", "--column", "b"], "numbers.parquet: no column b; give --column NAME, of a"),
        (["cat.png", "--out", "out.json"], "cat.png: its name does not end in a number, which COCO's results"),
        (["1.png", "001.png", "--out", "out.json"], "001.png and 1.png: have the same number"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(args, told, photos, finished, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for ending in ("csv", "jsonl", "json", "parquet"):
        (tmp_path / f"other.{ending}").write_text("a,b\n1,2\n")
    (tmp_path / "plain.parquet").write_text("no table")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "numbers.parquet")
    before = {path: path.read_bytes() for path in tmp_path.glob("other.*")}
    images = [] if args[0][0] != "-" else [photos / "below"]
    code, printed = errors_of(caption.main, [finished[0], *images, *args, *FEW], capsys, monkeypatch)
    assert code == 2
    assert told in printed
    assert {path: path.read_bytes() for path in tmp_path.glob("other.*")} == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root")
def test_a_folder_without_permission_is_listed(run, photos, tmp_path):
    (photos / "000000000009.png").unlink()
    (photos / "below").chmod(0)
    try:
        run(photos, "--out", tmp_path / "out.jsonl", code=1)
    finally:
        (photos / "below").chmod(0o700)
    assert len(rows_of(tmp_path / "out.jsonl")) == 5
    (error,) = rows_of(tmp_path / "out.jsonl.errors.jsonl")
    assert error == {"image": str(photos / "below"), "error": "Permission denied: its images are left out"}
