"""Text as people's editors leave it, in every layout that has text: a writer a layout, the same faults for all."""

import csv
import io
import json
import unicodedata
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources.texts import unescape
from dualcap_jax.errors import DataWarning

from .sets import jpeg, pack_tar, read, write


def dumps(value):
    return json.dumps(value, ensure_ascii=False, indent=1)


def table(columns, rows, separator=","):
    buffer = io.StringIO()
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows([columns, *rows])
    return buffer.getvalue()


def json_lines(image, caption, rows):
    return "".join(json.dumps({image: name, caption: text}, ensure_ascii=False) + "\n" for name, text in rows)


def coco(rows):
    images = [{"id": number, "file_name": name} for number, (name, _) in enumerate(rows)]
    captions = [{"id": number, "image_id": number, "caption": text} for number, (_, text) in enumerate(rows)]
    return dumps({"images": images, "annotations": captions})


def karpathy(rows):
    return dumps({"images": [{"filename": n, "split": "train", "sentences": [{"raw": text}]} for n, text in rows]})


WRITERS = {
    "captions.jsonl": ("", lambda rows: json_lines("image", "caption", rows)),
    "captions.csv": ("", lambda rows: table(["image", "caption"], rows)),
    "captions.txt": ("Images/", lambda rows: table(["image", "caption"], rows)),
    "metadata.jsonl": ("", lambda rows: json_lines("file_name", "text", rows)),
    "metadata.csv": ("", lambda rows: table(["file_name", "text"], rows)),
    "Flickr8k.token.txt": ("Flicker8k_Dataset/", lambda rows: "".join(f"{name}#0\t{text}\n" for name, text in rows)),
    "results.csv": (
        "flickr30k_images/",
        lambda rows: "image_name| comment_number| comment\n" + "".join(f"{n}| 0| {text}\n" for n, text in rows),
    ),
    "dataset_flickr8k.json": ("Images/", karpathy),
    "annotations/captions_train2017.json": ("train2017/", coco),
    "data_train.json": ("images/", lambda rows: dumps([{"image": name, "caption": text} for name, text in rows])),
}
"""By their file: the folder of the images, and the text."""
TABLES = ["captions.csv", "captions.txt", "metadata.csv"]
LINES = ["Flickr8k.token.txt", "results.csv"]
"""In which a caption is one line, unquoted."""
OF_EACH = ["pair.txt", "pair.caption", "shard.tar"]
"""A text for each image; its name is the image's."""


def write_set(root, layout, rows, encode=str.encode, there=None):
    """Write a set of images and captions; `there`: the images' own names, if they are written otherwise."""
    names = there or [name for name, _ in rows]
    if layout == "shard.tar":
        parts = {f"{name.split('.')[0]}.txt": encode(text + "\n") for name, text in rows}
        pack_tar(root / layout, {**parts, **{name: jpeg() for name in names}})
    elif layout in OF_EACH:
        ending = layout.split(".")[1]
        write(root, {f"{name.split('.')[0]}.{ending}": encode(text + "\n") for name, text in rows})
        write(root, {name: jpeg() for name in names})
    else:
        folder, text = WRITERS[layout]
        write(root, {layout: encode(text(rows)), **{folder + name: jpeg() for name in names}})


def captions(root):
    return [caption for of_image in read(root).values() for caption in of_image]


ENCODINGS = {
    "byte-order mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16": lambda text: text.encode("utf-16"),
    "cp1252": lambda text: text.encode("cp1252"),
    "Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "Windows, cp1252": lambda text: text.replace("\n", "\r\n").encode("cp1252"),
    "old Macintosh": lambda text: text.replace("\n", "\r").encode(),
    "no last line end": lambda text: text.removesuffix("\n").encode(),
    "empty lines at the end": lambda text: (text + "\n\n").encode(),
}
WESTERN = "Chlo\u00e9\u2019s dog \u2013 M\u00fcller, \u00bbFritz\u00ab \u2013 runs."


@pytest.mark.parametrize("layout", [*WRITERS, *OF_EACH])
@pytest.mark.parametrize("kind", ENCODINGS)
def test_every_encoding_and_line_end_is_read(tmp_path, layout, kind):
    write_set(tmp_path, layout, [("a.jpg", WESTERN), ("b.jpg", "A cat.")], ENCODINGS[kind])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert captions(tmp_path) == [WESTERN, "A cat."]
    assert any(issubclass(each.category, DataWarning) for each in seen) == ("cp1252" in kind)


FOREIGN = {
    "Russian": ("\u0441\u043e\u0431\u0430\u043a\u0430 \u0431\u0435\u0436\u0438\u0442", "cp1251"),
    "Chinese": ("\u4e00\u53ea\u72d7", "gbk"),
    "Japanese": ("\u72ac\u304c\u8d70\u308b", "shift-jis"),
    "Polish": ("bia\u0142y pies", "cp1250"),
    "Greek": ("\u03c3\u03ba\u03cd\u03bb\u03bf\u03c2", "cp1253"),
}


@pytest.mark.parametrize("language", FOREIGN)
@pytest.mark.parametrize("layout", [*WRITERS, *OF_EACH])
def test_text_that_may_be_of_another_encoding_is_refused_with_its_line(tmp_path, layout, language):
    text, encoding = FOREIGN[language]
    write_set(tmp_path, layout, [("a.jpg", text)], lambda whole: whole.encode(encoding))
    with pytest.raises(DataError, match=r"(json|jsonl|csv|txt|caption):\d+: not UTF-8 \(.*\); save the file as UTF-8"):
        read(tmp_path)


@pytest.mark.parametrize("layout", [*WRITERS, *OF_EACH])
def test_entities_are_the_characters_that_they_stand_for(tmp_path, layout):
    write_set(tmp_path, layout, [("a.jpg", "Salt &amp; pepper&#39;s &lt;3 &eacute;t&#xE9; &nbsp;AT&T, R&D; &copy x")])
    assert captions(tmp_path) == ["Salt & pepper's <3 \u00e9t\u00e9 AT&T, R&D; &copy x"]


@pytest.mark.parametrize("layout", [*WRITERS, *OF_EACH])
def test_a_line_end_in_a_caption_is_read_or_refused_with_its_line(tmp_path, layout):
    write_set(tmp_path, layout, [("a.jpg", "A dog\nruns."), ("b.jpg", "A cat.")])
    if layout in LINES:
        line = 2 if layout.startswith("Flickr8k") else 3
        with pytest.raises(DataError, match=rf"{layout}:{line}: is not .*; put it in a line of its own"):
            read(tmp_path)
    elif layout in OF_EACH:  # where a line is a caption
        assert captions(tmp_path) == ["A dog", "runs.", "A cat."]
    else:
        assert captions(tmp_path) == ["A dog runs.", "A cat."]


NFC = "caf\u00e9.jpg"
NAMES = {
    "backslash": ("pics/a.jpg", "pics\\a.jpg"),
    "case": ("Pics/A.JPG", "pics/a.jpg"),
    "composed": (unicodedata.normalize("NFD", NFC), NFC),
    "decomposed": (NFC, unicodedata.normalize("NFD", NFC)),
    "space": ("a.jpg", "a.jpg "),
}


@pytest.mark.parametrize("layout", WRITERS)
@pytest.mark.parametrize("kind", NAMES)
def test_a_name_written_otherwise_is_the_files(tmp_path, layout, kind):
    there, written = NAMES[kind]
    write_set(tmp_path, layout, [(written, "A dog."), ("b.jpg", "A cat.")], there=[there, "b.jpg"])
    own = there.split("/")[-1] if layout.startswith("dataset_") else there
    assert read(tmp_path) == {own: ("A dog.",), "b.jpg": ("A cat.",)}


@pytest.mark.parametrize(("image", "text"), [("A.JPG", "a.txt"), (NFC, unicodedata.normalize("NFD", "caf\u00e9.txt"))])
def test_a_text_beside_an_image_may_be_written_otherwise(tmp_path, image, text):
    write(tmp_path, {image: jpeg(), text: "A dog."})
    assert read(tmp_path) == {image: ("A dog.",)}


@pytest.mark.parametrize("layout", TABLES)
@pytest.mark.parametrize("separator", [";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep={}\n"])
def test_a_table_may_be_parted_by_other_than_commas(tmp_path, layout, separator, first):
    folder, _ = WRITERS[layout]
    columns = ["file_name", "Text", "split"] if layout.startswith("meta") else ["Image", "caption", "split"]
    rows = [("a.jpg", f"A dog, old{separator}and tired.", ""), ("b.jpg", 'A "cat".', "val")]
    text = first.format(separator) + table(columns, rows, separator)
    write(tmp_path, {layout: text, f"{folder}a.jpg": jpeg(), f"{folder}b.jpg": jpeg()})
    assert captions(tmp_path) == [" ".join(rows[0][1].split())]
    assert read(tmp_path, "validation") == {"b.jpg": ('A "cat".',)}


@pytest.mark.parametrize("layout", TABLES)
def test_a_table_with_a_bare_separator_in_a_caption_names_line_and_mend(tmp_path, layout):
    folder, text = WRITERS[layout]
    write(tmp_path, {layout: text([]).replace(",", ";") + "a.jpg;A dog; old.\n", f"{folder}a.jpg": jpeg()})
    with pytest.raises(DataError, match=rf"{layout}:2: needs 2 values \(quote a caption that has a semicolon\); has 3"):
        read(tmp_path)


@pytest.mark.parametrize("layout", WRITERS)
def test_a_missing_image_is_an_error_with_its_place_or_skipped_and_counted(tmp_path, layout):
    rows = [("a.jpg", "A dog."), ("b.jpg", "A cat.")]
    write_set(tmp_path, layout, rows, there=["b.jpg"])
    file = layout.split("/")[-1]
    with pytest.raises(DataError, match=rf"{file}: ?(\d+|images\[0\]|\[0\]): image 'a.jpg' does not exist \(looked"):
        read(tmp_path)
    assert read(tmp_path, on_error="skip") == {"b.jpg": ("A cat.",)}


@given(st.text())
def test_only_entities_change(text):
    assert unescape(text.replace("&", "")) == text.replace("&", "")
    assert unescape(text.replace(";", "")) == text.replace(";", "")
