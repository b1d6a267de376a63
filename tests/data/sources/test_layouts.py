"""COCO layouts, captions.jsonl and captions.csv, whole and broken, through `open_source`."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import iterate_captions, open_source

from .sets import captions_of, coco_caption, coco_image, jpeg_of, open_skipping, open_strictly, write_coco, write_images

# -- whole sets


def test_a_coco_layout_gives_all_images_with_all_captions(tmp_path):
    for name, offset in (("train2017", 0), ("val2017", 100)):
        images = [coco_image(offset + i) for i in (7, 3, 9)]
        rows = [(7, " A dog. \n"), (3, "A cat."), (7, "One dog."), (9, "A hen."), (7, "Dog!")]
        write_coco(tmp_path, images, [coco_caption(i, offset + n, text) for i, (n, text) in enumerate(rows)], name)
        write_images(tmp_path / name, *(image["file_name"] for image in images))

    train = open_strictly(tmp_path)
    assert [train[i].image_id for i in range(len(train))] == [7, 3, 9]
    assert train[0].captions == ("A dog.", "One dog.", "Dog!")
    assert train.caption_counts.tolist() == [3, 1, 1]
    assert train.caption_counts is train.caption_counts  # made anew for each example, it took longer than the image
    assert train[1].read_image() == jpeg_of()
    assert list(iterate_captions(train)) == ["A dog.", "One dog.", "Dog!", "A cat.", "A hen."]
    assert train.faults.summary() == "nothing skipped"
    validation = open_strictly(tmp_path, "validation")
    assert [validation[i].image_id for i in range(3)] == [107, 103, 109]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_jsonl_and_csv_of_the_same_content_give_the_same_records(tmp_path, encoding, line_end):
    jsonl = [
        '{"image": "b.jpg", "captions": ["A dog, running.", "Ein \u00fcbler Hund \U0001f415"]}',
        '{"image": "sub/a.jpg", "caption": "A \\"cat\\"."}',
        "",
        '{"image": "b.jpg", "caption": "A third."}',
    ]
    table = [
        "image,caption",
        'b.jpg,"A dog, running."',
        "b.jpg,Ein \u00fcbler Hund \U0001f415",
        'sub/a.jpg,"A ""cat""."',
        "b.jpg,A third.",
    ]
    records = []
    for name, lines in (("captions.jsonl", jsonl), ("captions.csv", table)):
        root = tmp_path / name
        write_images(root, "b.jpg", "sub/a.jpg")
        (root / name).write_bytes((line_end.join(lines) + line_end).encode(encoding))
        source = open_strictly(root)
        records.append([(source[i].image_id, source[i].filename, source[i].captions) for i in range(len(source))])
    assert records[0] == records[1]
    assert records[0] == [
        (0, "b.jpg", ("A dog, running.", "Ein \u00fcbler Hund \U0001f415", "A third.")),
        (1, "sub/a.jpg", ('A "cat".',)),
    ]


@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv"])
def test_splits_that_the_file_names_are_kept(tmp_path, name):
    rows = [("a.jpg", "one", "train"), ("b.jpg", "two", "val"), ("c.jpg", "three", "test"), ("d.jpg", "four", "")]
    write_images(tmp_path, *(image for image, _, _ in rows))
    if name == "captions.csv":
        lines = ["image,caption,split", *(",".join(row) for row in rows)]
    else:
        keys = ("image", "caption", "split")
        lines = [json.dumps({key: value for key, value in zip(keys, row, strict=True) if value}) for row in rows]
    (tmp_path / name).write_text("\n".join(lines))
    assert captions_of(open_strictly(tmp_path)) == {"a.jpg": ("one",), "d.jpg": ("four",)}
    assert captions_of(open_strictly(tmp_path, "validation")) == {"b.jpg": ("two",)}
    assert captions_of(open_strictly(tmp_path, "test")) == {"c.jpg": ("three",)}
    assert open_strictly(tmp_path, "test")[0].image_id == 2


def test_without_named_splits_images_are_divided_by_the_seed(tmp_path):
    names = [f"{i}.jpg" for i in range(30)]
    write_images(tmp_path, *names)

    def divide(order, **options):
        (tmp_path / "captions.jsonl").write_text(
            "\n".join(json.dumps({"image": name, "caption": "x"}) for name in order)
        )
        config = DataConfig(root=str(tmp_path), **options)
        return [set(captions_of(open_source(config, split))) for split in ("train", "validation")]

    train, validation = divide(names, validation_fraction=0.2)
    assert len(validation) == 6
    assert train | validation == set(names)
    assert not train & validation
    assert divide(names[::-1], validation_fraction=0.2) == [train, validation]
    assert divide(names, validation_fraction=0.2, split_seed=1) != [train, validation]
    assert len(divide(names[:2], validation_fraction=0.01)[1]) == 1
    with pytest.raises(DataError, match="has no split 'validation'; it has train"):
        divide(names, validation_fraction=0)


# -- whole sets that aren't there


@pytest.mark.parametrize(
    ("files", "split", "sentence"),
    [
        (
            [],
            "train",
            r"holds no annotations/captions_\{train,val\}\*.json .*no captions.csv, .*and no prepared set",
        ),
        (["captions.csv", "captions.jsonl"], "train", r"holds captions.jsonl and captions.csv: keep one of them"),
        (["annotations/captions_train2017.json"], "train", "images' directory '.*train2017' does not exist"),
        (
            ["annotations/captions_train2014.json", "annotations/captions_train2017.json"],
            "train",
            r"captions_train2014.json and captions_train2017.json are both for train: keep one",
        ),
        (["annotations/captions_val2017.json"], "test", "has no split 'test'; it has validation"),
    ],
)
def test_a_set_that_is_not_there_is_told(tmp_path, files, split, sentence):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    with pytest.raises(DataError, match=sentence):
        open_strictly(tmp_path, split)


def test_a_root_that_is_no_directory_is_told(tmp_path):
    with pytest.raises(DataError, match=r"data.root='.*nowhere' is not a directory"):
        open_strictly(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["{", "[]", '{"images": []}', '{"images": 3, "annotations": []}'])
def test_a_file_that_is_no_coco_is_told(tmp_path, content):
    write_coco(tmp_path, [], [])
    (tmp_path / "annotations" / "captions_train2017.json").write_text(content)
    with pytest.raises(DataError, match=r"captions_train2017.json: not COCO captions"):
        open_skipping(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"image:caption\na.jpg:x\n", r"needs columns 'image' and 'caption', separated by commas, .*; has \['image:"),
        (b"", r"needs columns 'image' and 'caption'.*has \[\]"),
        (b'image,caption\na.jpg,"' + b"x" * 140_000 + b'"\n', "captions.csv:.*not CSV .*field larger"),
    ],
)
def test_a_table_that_cannot_be_read_is_told(tmp_path, content, sentence):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(DataError, match=sentence):
        open_skipping(tmp_path)


# -- faults in single lines: an error, or skipped and counted

JSONL_FAULTS = {
    "not json": ('{"image": "a.jpg", ', "malformed line", r"captions.jsonl:2: not a line of JSON"),
    "endless number": ("1" * 5000, "malformed line", "captions.jsonl:2: not a line of JSON"),
    "no object": ("[1, 2]", "malformed line", r'captions.jsonl:2: is not \{"image": "NAME"'),
    "no captions": ('{"image": "a.jpg"}', "malformed line", r'captions.jsonl:2: is not \{"image": "NAME"'),
    "image a number": ('{"image": 3, "caption": "x"}', "malformed line", r'captions.jsonl:2: is not \{"image"'),
    "captions a text": ('{"image": "a.jpg", "captions": "x"}', "malformed line", r"captions.jsonl:2: is not"),
    "caption a number": (
        '{"image": "a.jpg", "captions": [3]}',
        "malformed caption",
        "captions.jsonl:2: a caption of image 'a.jpg' is not text",
    ),
    "caption empty": (
        '{"image": "a.jpg", "captions": ["x", " \\u0000\\n"]}',
        "empty caption",
        "captions.jsonl:2: a caption of image 'a.jpg' is empty",
    ),
    "image missing": (
        '{"image": "a/b.jpg", "caption": "x"}',
        "missing image",
        r"captions.jsonl:2: image 'a/b.jpg' does not exist \(looked under ",
    ),
    "image a folder": ('{"image": "folder", "caption": "x"}', "missing image", "image 'folder' is a folder"),
    "nothing said": ('{"image": "a.jpg", "captions": []}', "image without captions", "'a.jpg' has no caption"),
    "split unknown": (
        '{"image": "a.jpg", "caption": "x", "split": "dev"}',
        "malformed line",
        "captions.jsonl:2: split 'dev' is none of train, validation, test",
    ),
    "split changed": (
        '{"image": "good.jpg", "caption": "x", "split": "val"}',
        "contradictory split",
        "captions.jsonl:2: image 'good.jpg' was in another split before",
    ),
}


@pytest.mark.parametrize("name", JSONL_FAULTS)
def test_a_faulty_line_is_an_error_or_skipped_and_counted(tmp_path, name):
    line, kind, sentence = JSONL_FAULTS[name]
    write_images(tmp_path, "good.jpg", "a.jpg", "folder/x.jpg")
    good = '{"image": "good.jpg", "captions": ["fine"]}'
    (tmp_path / "captions.jsonl").write_text(f"{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=sentence) as error:
        open_strictly(tmp_path)
    assert "--data.on_error skip" in str(error.value)

    source = open_skipping(tmp_path)
    assert captions_of(source)["good.jpg"] == ("fine", "fine")
    assert source.faults.counts == {kind: 1} or source.faults.counts == {kind: 1, "image without captions": 1}
    assert f"1 x {kind}" in source.faults.summary()


def test_bytes_that_are_no_text_are_a_faulty_line(tmp_path):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "captions.jsonl").write_bytes(b'{"image": "a.jpg", "caption": "\xf1\xee\xe1\xe0\xea\xe0"}\n')
    with pytest.raises(DataError, match=r"captions.jsonl:1: not UTF-8 .* save the file as UTF-8"):
        open_strictly(tmp_path)


@pytest.mark.parametrize(
    ("line", "kind", "sentence"),
    [
        ("a.jpg", "malformed line", "captions.csv:2: needs 2 values"),
        ("a.jpg,A dog, running.", "malformed line", r"captions.csv:2: needs 2 values \(quote a caption"),
        (",x", "malformed line", "captions.csv:2: needs 2 values"),
        ("good.jpg,", "empty caption", "captions.csv:2: a caption of image 'good.jpg' is empty"),
        ("b.jpg,x", "missing image", r"captions.csv:2: image 'b.jpg' does not exist \(looked under "),
    ],
)
def test_a_faulty_row_is_an_error_or_skipped_and_counted(tmp_path, line, kind, sentence):
    write_images(tmp_path, "good.jpg", "a.jpg")
    (tmp_path / "captions.csv").write_text(f"image,caption\n{line}\ngood.jpg,fine\n")
    with pytest.raises(DataError, match=sentence):
        open_strictly(tmp_path)
    source = open_skipping(tmp_path)
    assert captions_of(source) == {"good.jpg": ("fine",)}
    assert source.faults.counts == {kind: 1}


COCO_FAULTS = {
    "image missing": (
        [coco_image(9)],
        [coco_caption(9, 9, "x")],
        {"missing image": 1},
        r"images\[1\]: image '000000000009.jpg' does not exist \(looked under .*train2017\)",
    ),
    "image unknown": (
        [],
        [coco_caption(9, 5, "x")],
        {"missing image": 1},
        r"annotations\[1\]: image id 5 is not among the file's images",
    ),
    "image id twice": ([coco_image(1)], [], {"duplicate id": 1}, r"images\[1\]: image id 1 was given before"),
    "annotation id twice": (
        [],
        [coco_caption(1, 1, "x")],
        {"duplicate id": 1},
        r"annotations\[1\]: annotation id 1 was given before",
    ),
    "no captions": (
        [coco_image(2)],
        [],
        {"image without captions": 1},
        "image '000000000002.jpg' has no caption",
    ),
    "caption empty": ([], [coco_caption(9, 1, "\n")], {"empty caption": 1}, r"annotations\[1\]: .* is empty"),
    "caption null": ([], [coco_caption(9, 1, None)], {"malformed caption": 1}, r"annotations\[1\]: .* is not text"),
    "id no number": ([{"id": "x", "file_name": "x"}], [], {"malformed image": 1}, r"images\[1\]: needs 'id'"),
    "id negative": (
        [{"id": -1, "file_name": "x"}],
        [],
        {"malformed image": 1},
        r"images\[1\]: needs 'id', a whole number from 0",
    ),
    "no object": ([], [3], {"malformed caption": 1}, r"annotations\[1\]: needs 'id' and 'image_id'"),
}


@pytest.mark.parametrize("name", COCO_FAULTS)
def test_a_fault_in_a_coco_file_is_an_error_or_skipped_and_counted(tmp_path, name):
    images, annotations, counts, sentence = COCO_FAULTS[name]
    write_coco(tmp_path, [coco_image(1), *images], [coco_caption(1, 1, "fine"), *annotations])
    write_images(tmp_path / "train2017", "000000000001.jpg", "000000000002.jpg")
    with pytest.raises(DataError, match="captions_train2017.json: " + sentence):
        open_strictly(tmp_path)
    source = open_skipping(tmp_path)
    assert captions_of(source) == {"000000000001.jpg": ("fine",)}
    assert source.faults.counts == counts


def test_nothing_usable_is_an_error_even_when_skipping(tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n{"image": "b.jpg", "caption": "y"}\n')
    with pytest.raises(DataError, match=r"no usable record for 'train': skipped 2: 2 x missing image .first: .*a.jpg'"):
        open_skipping(tmp_path)


# -- tables as they are left by people and by Excel

OPEN_QUOTE = """image,caption
a.jpg,one
b.jpg,"Stop says the sign.
c.jpg,three
d.jpg,four
{}
f.jpg,six
"""


@pytest.mark.parametrize("fifth", ["e.jpg,five", 'e.jpg,"Go says another.', 'e.jpg,"five, quoted"'])
def test_an_open_quotation_mark_takes_no_other_rows(tmp_path, fifth):
    write_images(tmp_path, *(f"{name}.jpg" for name in "abcdef"))
    (tmp_path / "captions.csv").write_text(OPEN_QUOTE.format(fifth))
    with pytest.raises(DataError, match=r"captions.csv:3: a quotation mark is not closed.*'c.jpg'") as refused:
        open_strictly(tmp_path)
    source = open_skipping(tmp_path)
    broken = 1 + ("Go" in fifth)
    assert source.faults.counts == {"malformed line": broken}
    assert len(source) == 6 - broken
    assert captions_of(source)["f.jpg"] == ("six",)
    assert '"""Stop"" says the sign."' in str(refused.value)  # which is read as it should be:
    (tmp_path / "captions.csv").write_text('image,caption\na.jpg,"""Stop"" says the sign."\n')
    assert captions_of(open_strictly(tmp_path)) == {"a.jpg": ('"Stop" says the sign.',)}


def test_a_caption_of_several_lines_is_one(tmp_path):
    write_images(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "captions.csv").write_text('image,caption\na.jpg,"A dog,\nrunning, on grass."\nb.jpg,two\n')
    assert captions_of(open_strictly(tmp_path)) == {"a.jpg": ("A dog, running, on grass.",), "b.jpg": ("two",)}


@pytest.mark.parametrize(
    "table",
    [
        "image,caption\na.jpg,one\n,\n,\n",
        "image,caption,,\na.jpg,one,,\n,,,\n",
        "image,caption\na.jpg,one,,\n",
        "image, caption \n\na.jpg,one\n  ,  \n",
        "image,caption,split\na.jpg,one\n",
        "image,caption,split\na.jpg,one, train\n",
    ],
)
def test_empty_cells_are_passed_over(tmp_path, table):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "captions.csv").write_text(table.replace("\n", "\r\n"))
    assert captions_of(open_strictly(tmp_path)) == {"a.jpg": ("one",)}


def test_a_column_that_is_there_twice_is_told(tmp_path):
    write_images(tmp_path, "a.jpg")
    (tmp_path / "captions.csv").write_text("image,caption,caption\na.jpg,one,two\n")
    with pytest.raises(DataError, match="has the column 'caption' twice; write each caption in a row of its own"):
        open_skipping(tmp_path)


@pytest.mark.filterwarnings("ignore:.*cp1252")
@given(st.binary(max_size=200))
def test_arbitrary_bytes_for_a_captions_file_give_a_data_error(tmp_path_factory, content):
    root = tmp_path_factory.mktemp("arbitrary")
    for name in ("captions.jsonl", "captions.csv"):
        (root / name).write_bytes(content)
        with pytest.raises(DataError):
            open_skipping(root)
        (root / name).unlink()
