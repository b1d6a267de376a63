"""Which files of a folder are images, and what is said of the others."""

import os
from contextlib import suppress

import pytest
from PIL import Image

from dualcap_jax.data.folders import find_images, read_file, suffixes
from dualcap_jax.data.images import decode_image


def test_every_kind_that_pillow_reads_is_taken_and_the_rest_counted(tmp_path):
    folder = tmp_path / "folder"
    names = [
        "a.jpg",
        "b.JPE",
        "c.jfif",
        "d.avif",
        "e.jp2",
        "f.ppm",
        "g.tga",
        "h.mpo",
        "below/i.webp",
        "below/deeper/j.ICO",
    ]
    for name in [*names, "._a.jpg", "notes.txt", "more.TXT", "photo.heic", "film.mpg", "no_ending", "data.h5"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "gone.jpg").symlink_to("nowhere")
    found = find_images(folder)
    assert found.images == sorted(folder / name for name in [*names, "gone.jpg"])  # that one cannot be read: it is told
    assert found.passed_over == {
        "macOS's notes (._*)": 1, ".txt": 2, ".heic": 1, ".mpg": 1, "no ending": 1, ".h5": 1, "a pipe, not a file": 1,
    }  # fmt: skip
    assert found.summary.startswith("passed over 8: 2 x .txt, ")


def test_linked_folders_are_entered_each_once(tmp_path):
    for name in ("folder/own/a.jpg", "elsewhere/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder" / "own")
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "folder")
    found = find_images(tmp_path / "folder")
    assert found.images == [tmp_path / "folder" / "linked" / "b.jpg", tmp_path / "folder" / "own" / "a.jpg"]
    assert found.passed_over == {"folder linked to again": 2}


def test_a_folder_that_may_not_be_entered_is_told(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(b"")
    scan = os.scandir

    def refusing(path):  # the tests may run as root, whom nothing is forbidden
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    found = find_images(tmp_path)
    assert found.images == [tmp_path / "a.jpg"]
    assert found.unreadable == [(tmp_path / "closed", "Permission denied")]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(OSError, match="is a pipe, not a file"):
        read_file(tmp_path / "pipe.jpg")


def test_what_pillow_writes_under_a_name_that_is_taken_is_decoded(tmp_path):
    written = set()
    for suffix in sorted(suffixes()):
        for mode in ("RGB", "L", "1"):
            with suppress(Exception):  # not every format can be written, or in this mode
                Image.new(mode, (32, 32)).save(tmp_path / f"a{suffix}")
                written.add(suffix)
                break
    assert len(written) > 25
    for suffix in written:
        assert decode_image((tmp_path / f"a{suffix}").read_bytes()).mode == "RGB", suffix
