"""Which files the names in captions.jsonl, captions.csv and COCO's annotations mean, through `open_source`."""

import json
import os
import unicodedata

import pytest

from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import refuse_shared_images

from .sets import captions_of, coco_caption, coco_image, jpeg_of, open_skipping, open_strictly, write_coco, write_images


@pytest.mark.parametrize("other", ["./a.jpg", "sub/../a.jpg", "ABSOLUTE", "linked.jpg", "link/a.jpg", "hard.jpg"])
def test_two_names_of_one_file_are_one_image(tmp_path, other):
    write_images(tmp_path, "a.jpg", "b.jpg", "sub/c.jpg")
    (tmp_path / "linked.jpg").symlink_to("a.jpg")
    (tmp_path / "link").symlink_to(".")
    (tmp_path / "hard.jpg").hardlink_to(tmp_path / "a.jpg")
    other = str(tmp_path / "a.jpg") if other == "ABSOLUTE" else other
    rows = [("a.jpg", "one"), ("b.jpg", "two"), (other, "three")]
    (tmp_path / "captions.jsonl").write_text(
        "".join(json.dumps(dict(zip(("image", "caption"), r, strict=True))) + "\n" for r in rows)
    )
    assert captions_of(open_strictly(tmp_path)) == {"a.jpg": ("one", "three"), "b.jpg": ("two",)}

    lines = [{"image": "a.jpg", "caption": "one", "split": "train"}, {"image": other, "caption": "x", "split": "val"}]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(DataError, match=r"was in another split before \(as 'a.jpg'\)"):
        open_strictly(tmp_path)


NFC = "caf\u00e9.jpg"
NFD = unicodedata.normalize("NFD", NFC)


@pytest.mark.parametrize("layout", ["captions.jsonl", "coco"])
@pytest.mark.parametrize(
    ("there", "written"),
    [
        ("pics/a.jpg", "pics\\a.jpg"),
        ("pics/a.jpg", ".\\pics\\a.jpg"),
        ("Pics/A.JPG", "pics/a.jpg"),
        ("Pics/A.JPG", "pics\\a.jpg"),
        (NFD, NFC),
        (NFC, NFD),
        (NFD.upper(), NFC),
    ],
)
def test_a_name_that_can_mean_only_one_file_means_it(tmp_path, there, written, layout):
    images = tmp_path / "train2017" if layout == "coco" else tmp_path
    write_images(images, there)
    if layout == "coco":
        write_coco(tmp_path, [{"id": 1, "file_name": written}], [coco_caption(1, 1, "x")])
    else:
        (tmp_path / layout).write_text(json.dumps({"image": written, "caption": "x"}))
    source = open_strictly(tmp_path)
    assert captions_of(source) == {there: ("x",)}
    assert source[0].read_image() == jpeg_of()


def test_a_name_that_can_mean_two_files_is_missing(tmp_path):
    write_images(tmp_path, "A.jpg", "a.JPG")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "x"}')
    with pytest.raises(
        DataError, match=r"; there are 'A.jpg' and 'a.JPG', which look alike: write the file's own name"
    ):
        open_strictly(tmp_path)


@pytest.mark.parametrize(
    ("there", "written"),
    [
        ("a.jpeg", "a.jpg"),
        ("a.jpg", "a"),
        ("a.jpg", "C:\\photos\\a.jpg"),
        ("a.jpg", "images/a.jpg"),
    ],
)
def test_what_looks_like_a_missing_file_is_named_and_its_name_mends_it(tmp_path, there, written):
    write_images(tmp_path, there)
    line = json.dumps({"image": written, "caption": "x"})
    (tmp_path / "captions.jsonl").write_text(line)
    with pytest.raises(DataError) as refused:
        open_strictly(tmp_path)
    assert f"; there is '{there}', which looks alike: write the file's own name" in str(refused.value)
    (tmp_path / "captions.jsonl").write_text(json.dumps({"image": there, "caption": "x"}))
    assert len(open_strictly(tmp_path)) == 1


def test_a_missing_file_like_none_is_only_missing(tmp_path):
    write_images(tmp_path, "b.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "x"}')
    with pytest.raises(DataError, match=r"does not exist \(looked under [^;]+\)\. Mend it"):
        open_strictly(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("x" * 300 + ".jpg", "can't be read (File name too long)"),
        ("pipe.jpg", "is a pipe, not a file"),
        ("loop.jpg", "can't be read (Too many levels of symbolic links)"),
        ("\ud800.jpg", "can't be read ("),
        ("closed/a.jpg", "can't be read (Permission denied)"),
    ],
)
@pytest.mark.parametrize("layout", ["captions.jsonl", "coco"])
def test_a_name_that_no_file_can_have_or_that_is_no_file_is_a_fault_like_others(
    tmp_path, name, reason, layout, monkeypatch
):
    images = tmp_path / "train2017" if layout == "coco" else tmp_path
    write_images(images, "a.jpg", "closed/a.jpg")
    os.mkfifo(images / "pipe.jpg")
    (images / "loop.jpg").symlink_to("loop.jpg")
    stat = type(tmp_path).stat

    def refusing(path, **options):
        if path.parent.name == "closed":
            raise PermissionError(13, "Permission denied")
        return stat(path, **options)

    monkeypatch.setattr(type(tmp_path), "stat", refusing)
    if layout == "coco":
        listed = [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": name}]
        write_coco(tmp_path, listed, [coco_caption(1, 1, "x"), coco_caption(2, 2, "y")])
    else:
        lines = [json.dumps({"image": each, "caption": "x"}) for each in ("a.jpg", name)]
        (tmp_path / layout).write_text("\n".join(lines))
    with pytest.raises(DataError) as refused:
        open_strictly(tmp_path)
    assert reason in str(refused.value)
    source = open_skipping(tmp_path)
    assert source.faults.counts == {"missing image": 1}
    assert list(source.filenames) == ["a.jpg"]
    source.faults.summary().encode()  # it can be printed and written


def test_a_captions_file_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "x"}')
    monkeypatch.setattr(
        type(tmp_path), "open", lambda path, *_, **__: (_ for _ in ()).throw(PermissionError(13, "No", str(path)))
    )
    with pytest.raises(DataError, match=r"captions.jsonl: can't be read \(No\)"):
        open_skipping(tmp_path)


def test_one_name_in_two_folders_is_one_image_only_if_the_bytes_are(tmp_path):
    for name, offset in (("train2017", 0), ("val2017", 100)):
        write_coco(tmp_path, [coco_image(1), coco_image(2)], [coco_caption(i, i, "x") for i in (1, 2)], name)
        for number in (1, 2):
            path = tmp_path / name / f"{number:012d}.jpg"
            path.write_bytes(jpeg_of((number, offset, 0)))
    sources = open_strictly(tmp_path), open_strictly(tmp_path, "validation")
    refuse_shared_images(*sources, "validation")
    path.write_bytes((tmp_path / "train2017" / path.name).read_bytes())
    with pytest.raises(DataError, match="1 images of validation are trained on too, such as '000000000002.jpg'"):
        refuse_shared_images(*sources, "validation")
    with pytest.raises(DataError, match="2 images of validation"):
        refuse_shared_images(*sources, "validation", compare=False)
