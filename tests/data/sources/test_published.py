"""Sets as they are published: Kaggle's Flickr8k and Flickr30k, Karpathy's division, LAVIS' lists, COCO of 2014."""

import json

import pytest

from dualcap_jax import scoring
from dualcap_jax.data.config import DataConfig
from dualcap_jax.data.records import DataError
from dualcap_jax.data.sources import refuse_shared_images
from dualcap_jax.evaluate import refuse_trained_on

from .sets import images, jpeg, opened, pack_zip, read, read_images, write

# -- Kaggle's

KAGGLE = 'image,caption\na.jpg,A dog .\na.jpg,"A dog , old ."\nb.jpg,"""Stop"" says the sign ."\n'


@pytest.mark.parametrize("folder", ["Images/", "images/", ""])
def test_kaggles_flickr8k(tmp_path, folder):
    write(tmp_path, {"captions.txt": KAGGLE, **images("a.jpg", "b.jpg", folder=folder)})
    assert read(tmp_path) == {"a.jpg": ("A dog .", "A dog , old ."), "b.jpg": ('"Stop" says the sign .',)}
    with pytest.raises(DataError, match="no split 'test'; it has train. Give captions.txt a column 'split'"):
        opened(tmp_path, "test")
    write(tmp_path, {"captions.txt": "image,caption,split\na.jpg,x,train\nb.jpg,y,test\n"})
    assert read(tmp_path, "test") == {"b.jpg": ("y",)}


def test_a_captions_txt_that_is_no_table_is_not_kaggles(tmp_path):
    write(tmp_path, {"captions.txt": "A dog.\n", "captions.jpg": jpeg()})
    assert read(tmp_path) == {"captions.jpg": ("A dog.",)}


FLICKR30K = """image_name| comment_number| comment
a.jpg| 0| A man in a "red" shirt , with a | in it .
a.jpg| 4   A dog runs across the grass .
b.jpg| 0| A cat .
"""


@pytest.mark.parametrize("table", ["", "flickr30k_images/"])
@pytest.mark.parametrize("folder", ["flickr30k_images/", "flickr30k_images/flickr30k_images/"])
def test_kaggles_flickr30k_with_its_malformed_row(tmp_path, table, folder):
    write(tmp_path, {f"{table}results.csv": FLICKR30K, **images("a.jpg", "b.jpg", folder=folder)})
    first = 'A man in a "red" shirt , with a | in it .'
    assert read(tmp_path) == {"a.jpg": (first, "A dog runs across the grass ."), "b.jpg": ("A cat .",)}


def test_a_row_of_flickr30k_without_a_number_is_named(tmp_path):
    write(tmp_path, {"results.csv": FLICKR30K + "b.jpg A bird .\n", **images("a.jpg", "b.jpg", folder="Images/")})
    with pytest.raises(DataError, match=r"results.csv:5: is not IMAGE\| NUMBER\| CAPTION"):
        read(tmp_path)
    assert opened(tmp_path, on_error="skip").faults.counts == {"malformed line": 1}


def test_the_authors_flickr30k(tmp_path):
    tokens = "a.jpg#0\tA dog .\nb.jpg#0\tA cat .\n"
    write(tmp_path, {"results_20130124.token": tokens, **images("a.jpg", "b.jpg", folder="flickr30k-images/")})
    assert read(tmp_path) == {"a.jpg": ("A dog .",), "b.jpg": ("A cat .",)}


# -- Karpathy's


def karpathy(coco=True):
    """Images 1 to 5: of train, restval, val, test and train."""
    rows = []
    for number, split in enumerate(("train", "restval", "val", "test", "train"), start=1):
        folder = "train2014" if split == "train" else "val2014"
        name = f"COCO_{folder}_{number:012d}.jpg" if coco else f"{number}.jpg"
        row = {"imgid": number - 1, "split": split, "filename": name}
        row["sentences"] = [{"raw": f"Caption {n} of {number}.", "sentid": 10 * number + n} for n in (0, 1)]
        rows.append({**row, "filepath": folder, "cocoid": number} if coco else row)
    return {"images": rows, "dataset": "coco" if coco else "flickr8k"}


def check_karpathy(root, ids, names):
    for split, numbers in {"train": (1, 5, 2), "validation": (3,), "test": (4,)}.items():
        source = opened(root, split)
        assert [source[i].image_id for i in range(len(source))] == [ids(number) for number in numbers]
        assert list(source.filenames) == [names[number - 1] for number in numbers]
        assert source[0].captions == tuple(f"Caption {n} of {numbers[0]}." for n in (0, 1))
        assert list(read_images(source).values()) == [jpeg(number) for number in numbers]


def own_names(rows):
    return [row["filename"] for row in rows["images"]]


@pytest.mark.parametrize("folder", ["{}/", "images/{}/", "Images/", "images/", ""])
@pytest.mark.parametrize("file", ["dataset_coco.json", "annotations/dataset_coco.json"])
def test_karpathys_coco_with_2014s_images(tmp_path, folder, file):
    content = karpathy()
    write(tmp_path, {file: content})
    for row in content["images"]:
        write(tmp_path, {folder.format(row["filepath"]) + row["filename"]: jpeg(row["cocoid"])})
    check_karpathy(tmp_path, lambda number: number, own_names(content))


@pytest.mark.parametrize("zips", ["", "images/"])
def test_karpathys_coco_as_it_is_downloaded(tmp_path, zips):
    content = karpathy()
    pack_zip(
        tmp_path / "caption_datasets.zip", {"dataset_coco.json": content, "dataset_flickr8k.json": karpathy(False)}
    )
    for folder in ("train2014", "val2014"):
        rows = [row for row in content["images"] if row["filepath"] == folder]
        pack_zip(tmp_path / f"{zips}{folder}.zip", {f"{folder}/{row['filename']}": jpeg(row["cocoid"]) for row in rows})
    check_karpathy(tmp_path, lambda number: number, own_names(content))


@pytest.mark.parametrize("folder", ["", "images/"])
def test_karpathys_coco_with_2017s_images(tmp_path, folder):
    write(tmp_path, {"dataset_coco.json": karpathy()})
    names = [f"{number:012d}.jpg" for number in range(1, 6)]
    for number, name in enumerate(names, start=1):
        write(tmp_path, {f"{folder}{'val2017' if number == 3 else 'train2017'}/{name}": jpeg(number)})
    check_karpathy(tmp_path, lambda number: number, names)


@pytest.mark.parametrize("folder", ["Images/", "Flicker8k_Dataset/", "flickr30k-images/", ""])
@pytest.mark.parametrize("file", ["dataset_flickr8k.json", "dataset_flickr30k.json"])
def test_karpathys_flickr(tmp_path, folder, file):
    content = karpathy(coco=False)
    write(tmp_path, {file: content, **{f"{folder}{n}.jpg": jpeg(n) for n in range(1, 6)}})
    check_karpathy(tmp_path, lambda number: number - 1, own_names(content))


@pytest.mark.parametrize(
    ("change", "kind", "sentence"),
    [
        ({"split": "dev"}, "malformed image", r"images\[4\]: split 'dev' is none of train, restval, val, test"),
        (
            {"sentences": None},
            "malformed image",
            r"images\[4\]: needs 'filename', 'cocoid' or 'imgid', and",
        ),
        ({"sentences": [{"raw": ""}]}, "empty caption", r"images\[4\]: a caption of image '5.jpg' is empty"),
        ({"filename": "6.jpg"}, "missing image", r"images\[4\]: image '6.jpg' does not exist \(looked under"),
        ({"imgid": 0}, "duplicate id", r"images\[4\]: image 0 is listed twice"),
    ],
)
def test_a_fault_in_karpathys_file_is_an_error_or_skipped_and_counted(tmp_path, change, kind, sentence):
    content = karpathy(coco=False)
    content["images"][4] |= change
    write(tmp_path, {"dataset_flickr8k.json": content, **{f"Images/{n}.jpg": jpeg(n) for n in range(1, 6)}})
    with pytest.raises(DataError, match=f"dataset_flickr8k.json: {sentence}"):
        read(tmp_path)
    source = opened(tmp_path, on_error="skip")
    assert list(source.filenames) == ["1.jpg", "2.jpg"]
    assert source.faults.counts.pop(kind) == 1


@pytest.mark.parametrize("content", ["[]", "{}", '{"images": 3}'])
def test_a_file_that_is_not_karpathys_is_told(tmp_path, content):
    write(tmp_path, {"dataset_coco.json": content})
    with pytest.raises(DataError, match=r"dataset_coco.json: not Karpathy's dataset_coco.json: it has no list"):
        read(tmp_path)


def test_images_trained_on_under_2017s_names_are_not_scored_under_2014s(tmp_path):
    ours, theirs = tmp_path / "2017", tmp_path / "2014"
    listed = {"images": [{"id": 4, "file_name": "000000000004.jpg"}]}
    listed["annotations"] = [{"id": 1, "image_id": 4, "caption": "x"}]
    write(ours, {"annotations/captions_train2017.json": listed, "train2017/000000000004.jpg": jpeg()})
    write(theirs, {"dataset_coco.json": karpathy(), **images(*own_names(karpathy()), folder="images/")})
    with pytest.raises(DataError, match=r"1 images of test are trained on too, such as 'COCO_val2014_0+4.jpg'"):
        refuse_trained_on(DataConfig(root=str(ours)), DataConfig(root=str(theirs)), "test")
    refuse_trained_on(DataConfig(root=str(ours)), DataConfig(root=str(theirs)), "validation")
    refuse_shared_images(opened(theirs), opened(theirs, "test"), "test")


@pytest.mark.parametrize("layout", ["dataset_coco.json", "coco_karpathy_test.json"])
def test_reports_name_karpathys_splits(tmp_path, monkeypatch, layout):
    sizes = {"karpathy": {"train": 2, "restval": 1, "val": 1, "test": 1}, "2017": {"train": 3, "validation": 1}}
    monkeypatch.setattr(scoring, "PUBLISHED", sizes)
    name = own_names(karpathy())[3]
    content = karpathy() if layout == "dataset_coco.json" else [{"image": f"val2014/{name}", "caption": "x"}]
    write(tmp_path, {layout: content, f"val2014/{name}": jpeg()})
    source = opened(tmp_path, "test", on_error="skip")
    assert scoring.describe(source, DataConfig(root=str(tmp_path)), "test") == "COCO, Karpathy test split"


# -- LAVIS' and BLIP's

TRAIN = [
    {"caption": "A dog.", "image": "train2014/COCO_train2014_000000000009.jpg", "image_id": "coco_9"},
    {"caption": "One dog.", "image": "train2014/COCO_train2014_000000000009.jpg", "image_id": "coco_9"},
    {"caption": "A cat.", "image": "val2014/COCO_val2014_000000000007.jpg", "image_id": "coco_7"},
]
VAL = [{"image": "val2014/COCO_val2014_000000000005.jpg", "caption": ["A hen.", "A bird."]}]


@pytest.mark.parametrize("folder", ["", "images/"])
@pytest.mark.parametrize("lists", ["", "annotations/"])
def test_lavis_lists(tmp_path, folder, lists):
    write(tmp_path, {f"{lists}coco_karpathy_train.json": TRAIN, f"{lists}coco_karpathy_val.json": VAL})
    write(tmp_path, images(*{row["image"] for row in TRAIN + VAL}, folder=folder))
    train, validation = opened(tmp_path), opened(tmp_path, "validation")
    assert read(tmp_path) == {TRAIN[0]["image"]: ("A dog.", "One dog."), TRAIN[2]["image"]: ("A cat.",)}
    assert read(tmp_path, "validation") == {VAL[0]["image"]: ("A hen.", "A bird.")}
    assert [source[i].image_id for source in (train, validation) for i in range(len(source))] == [9, 7, 5]
    with pytest.raises(DataError, match="Put a list of the images of 'test' beside the others, named like them"):
        opened(tmp_path, "test")


def test_one_list_that_names_no_split_is_divided(tmp_path):
    rows = [{"image": f"{n}.jpg", "caption": f"Image {n}."} for n in range(10)]
    write(tmp_path, {"mine.json": rows, **images(*(row["image"] for row in rows))})
    assert len(opened(tmp_path, validation_fraction=0.2)) == 8
    assert len(opened(tmp_path, "validation", validation_fraction=0.2)) == 2
    write(tmp_path, {"more.json": rows})
    with pytest.raises(DataError, match="mine.json: no split in its name, as in coco_karpathy_train.json"):
        read(tmp_path)


@pytest.mark.parametrize("row", [3, {"image": "a.jpg"}, {"caption": "x"}, {"image": "", "caption": "x"}])
def test_a_row_of_a_list_that_is_none_is_named(tmp_path, row):
    write(tmp_path, {"my_train.json": [{"image": "a.jpg", "caption": "A dog."}, row], **images("a.jpg")})
    with pytest.raises(DataError, match=r'my_train.json: \[1\]: is not \{"image": "NAME", "caption": "..."\}'):
        read(tmp_path)
    assert opened(tmp_path, on_error="skip").faults.counts == {"malformed line": 1}


# -- COCO's


@pytest.mark.parametrize("folder", ["{}/", "images/{}/", "{}.zip", "images/{}.zip"])
def test_coco_of_2014_and_its_images_in_images_or_zipped(tmp_path, folder):
    for number, name in enumerate(("train2014", "val2014")):
        file = f"COCO_{name}_{number:012d}.jpg"
        listed = {"images": [{"id": number, "file_name": file}]}
        listed["annotations"] = [{"id": 1, "image_id": number, "caption": f"Of {name}."}]
        write(tmp_path, {f"annotations/captions_{name}.json": json.dumps(listed)})
        place = folder.format(name)
        if place.endswith(".zip"):
            pack_zip(tmp_path / place, {f"{name}/{file}": jpeg(number)})
        else:
            write(tmp_path, {f"{place}{file}": jpeg(number)})
    assert read(tmp_path) == {"COCO_train2014_000000000000.jpg": ("Of train2014.",)}
    assert read_images(opened(tmp_path, "validation")) == {"COCO_val2014_000000000001.jpg": jpeg(1)}
