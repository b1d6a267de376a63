"""Evaluation through the command: of a run, of any system's captions, interrupted and resumed."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner, scoring
from dualcap_jax import evaluate as evaluate_command
from dualcap_jax.data.sources import open_source
from dualcap_jax.evaluation.config import EvaluationConfig
from dualcap_jax.evaluation.metrics.java_metrics import MetricError
from dualcap_jax.evaluation.reports.values import Evaluation, ScoredCaption

from .test_command_errors import errors_of


@pytest.fixture
def workdir(finished, tmp_path) -> Path:
    others = shutil.ignore_patterns("validation-*")  # what another test made there
    return Path(shutil.copytree(finished[0], tmp_path / "run", ignore=others))


def read(path: Path):
    return json.loads(path.read_text())


def test_a_run_is_reported_as_json_markdown_page_and_results(workdir, capsys):
    assert evaluate_command.main([str(workdir), "--metrics", "bleu", "coco", "diversity", "character-bleu", "ter"]) == 0
    printed, folder = capsys.readouterr().out, workdir / "evaluation"
    scores = read(folder / "validation-beam2.json")
    for key in ("bleu_4", "coco_cider_d", "diversity_novel", "character_bleu_nltk_4", "ter", "perplexity"):
        assert np.isfinite(scores[key]), key
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))
    assert scores["dataset"] == "drawn scenes"
    assert scores["decoding"]["num_beams"] == 2
    assert all({"caption", "score", "cider_d", "references", "image_id"} <= row.keys() for row in scores["captions"])
    results = read(folder / "captions_validation-beam2_results.json")
    assert results == [{key: row[key] for key in ("image_id", "caption")} for row in scores["captions"]]
    assert f"BLEU-4 {scores['bleu_4']:.1f}" in re.sub(" +", " ", printed)
    assert "character BLEU (NLTK on strings, as the original's)" in printed
    page = (folder / "validation-beam2.html").read_text()
    for row in scores["captions"]:
        assert page.count(f"Image {row['image_id']}, score") == 1
    assert page.count("data:image/jpeg") == len(scores["captions"]) == 6
    assert "what the image added" in page
    assert "over training steps" in page  # curves
    assert str(folder / "validation-beam2.html") in printed
    assert not list(folder.glob("*progress*"))


def test_numbers_of_beams_are_compared_and_other_settings_keep_their_own_reports(workdir, capsys):
    arguments = [str(workdir), "--metrics", "bleu", "--samples", "0"]
    assert evaluate_command.main([*arguments, "--beams", "1", "3"]) == 0
    assert evaluate_command.main([*arguments, "--decoding.length-penalty", "0.5", "--decoding.bad-words", "red"]) == 0
    capsys.readouterr()
    names = {path.stem for path in (workdir / "evaluation").glob("validation*.json")}
    assert names == {"validation-beam1", "validation-beam3", "validation-beam2-bad-words-_red_-length-penalty-0.5"}
    page = (workdir / "evaluation" / "validation-beam2-bad-words-_red_-length-penalty-0.5.html").read_text()
    assert all(f'<th scope="row">{name}</th>' in page for name in names)


def test_what_scores_hang_on_is_in_a_reports_name(workdir, pictures, capsys):
    arguments = [str(workdir), "--metrics", "bleu", "--samples", "0"]
    assert evaluate_command.main(arguments) == 0
    usual = (workdir / "evaluation" / "validation-beam2.json").read_bytes()
    root = ["--root", str(pictures), "--on-error", "skip"]
    for others in (["--checkpoint", "latest"], ["--lowercase", "True"], ["--tokenize", "char"], root):
        assert evaluate_command.main([*arguments, *others]) == 0
    names = {path.stem for path in (workdir / "evaluation").glob("validation*.json")}
    (elsewhere,) = (name for name in names if re.fullmatch("validation-beam2-root-pictures-[0-9a-f]{8}", name))
    others = {f"validation-beam2-{what}" for what in ("latest", "lowercase-True", "tokenize-char")}
    assert names == {"validation-beam2", elsewhere, *others}
    assert (workdir / "evaluation" / "validation-beam2.json").read_bytes() == usual


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A set of eleven images, three of them broken, all to validate on."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for number in range(11):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(folder / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "captions": ["two red squares"], "split": "validation"}))
    for number in (1, 2, 9):
        (folder / f"{number}.png").write_bytes(b"no picture")
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def captioner_of(workdir: Path, folder: Path) -> Captioner:
    captioner = Captioner.load(workdir)
    data = replace(captioner.config.data, root=str(folder), on_error="skip")
    captioner.config = replace(captioner.config, data=data)
    return captioner


def change_an_image(folder: Path) -> None:
    shutil.copyfile(folder / "10.png", folder / "0.png")


def change_a_caption(folder: Path) -> None:
    lines = (folder / "captions.jsonl").read_text()
    (folder / "captions.jsonl").write_text(lines.replace("two red squares", "two blue squares", 1))


def take_an_image_out(folder: Path) -> None:
    lines = (folder / "captions.jsonl").read_text().splitlines()
    (folder / "captions.jsonl").write_text("\n".join(lines[1:]))


@pytest.mark.parametrize("change", [change_an_image, change_a_caption, take_an_image_out])
def test_what_changed_since_an_interruption_is_noticed_and_captioned_anew(
    workdir, pictures, tmp_path, monkeypatch, capsys, change
):
    captioner = captioner_of(workdir, pictures)
    decoding = replace(captioner.config.decoding, batch_size=3)
    encode = captioner.encode

    def made(progress: str):
        source = open_source(captioner.config.data, "validation")
        return scoring.caption_split(captioner, source, decoding, tmp_path / progress)[:2]

    batches = iter([encode, encode])  # of three
    monkeypatch.setattr(captioner, "encode", lambda images: next(batches)(images))
    with pytest.raises(StopIteration):
        made("interrupted")
    monkeypatch.setattr(captioner, "encode", encode)
    change(pictures)
    capsys.readouterr()
    again = made("interrupted")
    assert "images or captions have changed since; they are captioned anew" in capsys.readouterr().err
    assert again == made("from the start")


@pytest.mark.parametrize("sampled", [False, True])
def test_an_evaluation_goes_on_where_it_was_interrupted(workdir, pictures, tmp_path, monkeypatch, sampled):
    """With a broken image before and after, which is passed over."""
    captioner = captioner_of(workdir, pictures)
    data = captioner.config.data
    decoding = replace(captioner.config.decoding, batch_size=3, do_sample=sampled)
    source, progress = open_source(data, "validation"), tmp_path / "progress.jsonl"

    def made_of_all(settings, file):
        captions, losses, _ = scoring.caption_split(captioner, source, settings, file)
        return captions, losses

    whole = made_of_all(decoding, tmp_path / "whole.jsonl")
    assert [row.image_id for row in whole[0]] == [0, 3, 4, 5, 6, 7, 8, 10]

    encode, batches = captioner.encode, []

    def interrupted(images):
        batches.append(images)
        if len(batches) == 2:
            raise KeyboardInterrupt
        return encode(images)

    monkeypatch.setattr(captioner, "encode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made_of_all(decoding, progress)
    with progress.open("a") as file:
        file.write('{"captions": [{"imag')  # killed while it wrote
    assert made_of_all(decoding, progress) == whole
    assert len(batches) == 4  # of three, one was interrupted and the first was not done again
    assert made_of_all(decoding, progress) == whole
    assert len(batches) == 4
    made_of_all(replace(decoding, min_length=4), progress)
    assert len(batches) == 7  # with other settings all are


def file_of(captions: list, path: Path) -> Path:
    path.write_text(json.dumps(captions))
    return path


@pytest.fixture
def theirs(tmp_path) -> tuple[Path, Path]:
    """A COCO layout, and another system's captions of its validation split."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    (root / "val2017").mkdir()
    images = [{"id": number, "file_name": f"{number:012}.jpg"} for number in (7, 3, 12)]
    for image in images:
        Image.new("RGB", (64, 48), (image["id"] * 9, 0, 0)).save(root / "val2017" / image["file_name"])
    texts = {7: ["A dog runs.", "a running dog"], 3: ["A cat sleeps on a bed."], 12: ["Two birds", "birds on a wire"]}
    annotations = [
        {"id": number, "image_id": image_id, "caption": caption}
        for number, (image_id, caption) in enumerate((key, each) for key, some in texts.items() for each in some)
    ]
    (root / "annotations" / "captions_val2017.json").write_text(
        json.dumps({"images": images, "annotations": annotations})
    )
    captions = [{"image_id": image_id, "caption": some[0]} for image_id, some in texts.items()]
    return root, file_of(captions[::-1], tmp_path / "theirs.json")


def test_any_systems_captions_are_scored_by_the_same_code(theirs, capsys):
    root, captions = theirs
    assert evaluate_command.main(["--captions", str(captions), "--root", str(root)]) == 0
    assert "COCO CIDEr-D" in capsys.readouterr().out
    folder = captions.parent / "evaluation"
    scores = read(folder / "validation-theirs.json")
    assert scores["bleu_1"] == pytest.approx(100)
    assert scores["images"] == 3
    assert "step" not in scores
    assert scores["diversity_novel"] is None
    assert scores["dataset"] == str(root)
    page = (folder / "validation-theirs.html").read_text()
    assert page.count("data:image/jpeg") == 3
    assert "training steps" not in page


def test_numbers_of_images_may_be_written_as_a_table_writes_them(theirs, capsys):
    root, captions = theirs
    rows = read(captions)
    kinds = (int, float, str)
    file_of([{**row, "image_id": kind(row["image_id"])} for row, kind in zip(rows, kinds, strict=True)], captions)
    assert evaluate_command.main(["--captions", str(captions), "--data.root", str(root), "--metrics", "bleu"]) == 0
    assert read(captions.parent / "evaluation" / "validation-theirs.json")["bleu_1"] == pytest.approx(100)
    assert "warning" not in capsys.readouterr().err


def test_captions_without_words_or_with_a_models_tokens_are_told(theirs, capsys):
    root, captions = theirs
    rows = read(captions)
    rows[0]["caption"], rows[1]["caption"] = " ", "A cat.<|endoftext|>"
    file_of(rows, captions)
    assert evaluate_command.main(["--captions", str(captions), "--root", str(root), "--metrics", "bleu"]) == 0
    told = capsys.readouterr().err
    assert f"warning: {captions}: 1 of 3 captions are empty" in told
    assert "1 of 3 captions hold a model's token, such as <|endoftext|>" in told


def test_a_runs_own_settings_are_the_defaults_that_options_are_checked_against(workdir, capsys):
    values = read(workdir / "config.json")
    values["decoding"] |= {"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5, "max_length": 32}
    values["evaluation"]["metrics"] = ["ter"]
    (workdir / "config.json").write_text(json.dumps(values))
    arguments = [str(workdir), "--num-return-sequences", "6", "--decoding.diversity_penalty", "0.25", "--samples", "0"]
    assert evaluate_command.main([*arguments, "--decoding.min-length=31"]) == 0
    results = workdir / "evaluation" / "captions_validation-beam6-min-length-31-diversity-penalty-0.25_results.json"
    assert results.is_file()
    capsys.readouterr()
    assert evaluate_command.main([str(workdir), "--captions", str(results)]) == 0
    printed = capsys.readouterr().out
    assert "TER" in printed
    assert "BLEU" not in printed


def test_data_that_moved_are_named_with_the_mend(theirs, workdir, capsys, monkeypatch, tmp_path):
    root, _ = theirs
    monkeypatch.chdir(tmp_path)
    values = read(workdir / "config.json")
    values["data"]["root"] = "data/coco"
    (workdir / "config.json").write_text(json.dumps(values))
    code, printed = errors_of(evaluate_command.main, [workdir], capsys, monkeypatch)
    assert code == 2
    assert f"data.root='data/coco' is not a directory (looked under {tmp_path})" in printed
    assert "with --root DIR" in printed
    for option in ("--root", "--data.root"):
        assert evaluate_command.main([str(workdir), option, str(root), "--metrics", "bleu"]) == 0


def test_memory_that_does_not_suffice_is_told_with_what_it_hangs_on(workdir, capsys, monkeypatch):
    def exhausted(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 99 bytes.\n1\n2\n3")

    monkeypatch.setattr(Captioner, "encode", exhausted)
    code, printed = errors_of(evaluate_command.main, [workdir, "--num-beams", "3"], capsys, monkeypatch)
    assert code == 2
    assert (
        "error: out of memory (Out of memory allocating 99 bytes.): lower --decoding.batch-size (now 4) or "
        "--decoding.num-beams (now 3)"
    ) in printed


def test_a_caption_too_long_to_explain_is_reported_all_the_same(workdir):
    captioner = Captioner.load(workdir)
    data = captioner.config.data
    source = open_source(data, "validation")
    captions = tuple(ScoredCaption(source[place].image_id, "\ufffd" * 40) for place in range(len(source)))
    told = Evaluation("broken", "validation", "drawn scenes", captions)
    scored = scoring.score(told, source, data, EvaluationConfig(("bleu",)))
    path = scoring.report(workdir / "evaluation", scored, source, scoring.explainer(captioner, source, {}))
    assert read(path)["images"] == len(captions)
    assert "\ufffd" * 40 in path.with_suffix(".html").read_text()


def test_weighing_by_training_captions_needs_them(theirs, workdir, capsys, monkeypatch):
    root, captions = theirs
    arguments = ["--cider-corpus", "train", "--metrics", "coco"]
    code, printed = errors_of(
        evaluate_command.main, [*arguments, "--captions", captions, "--root", root], capsys, monkeypatch
    )
    assert code == 2
    assert "has no split 'train'; it has validation" in printed
    assert not (captions.parent / "evaluation").exists()
    assert evaluate_command.main([str(workdir), *arguments, "--samples", "0"]) == 0
    weighed = read(workdir / "evaluation" / "validation-beam2-cider-corpus-train.json")["coco_cider_d"]
    assert evaluate_command.main([str(workdir), "--metrics", "coco", "--samples", "0"]) == 0
    assert weighed != read(workdir / "evaluation" / "validation-beam2.json")["coco_cider_d"]


def test_captions_of_a_runs_data_need_no_checkpoint(workdir, capsys):
    evaluate_command.main([str(workdir), "--split", "test", "--samples", "0"])
    shutil.rmtree(workdir / "checkpoints")
    results = workdir / "evaluation" / "captions_test-beam2_results.json"
    assert evaluate_command.main([str(workdir), "--split", "test", "--captions", str(results)]) == 0
    ours, again = (
        read(path)
        for path in (
            workdir / "evaluation" / "test-beam2.json",
            workdir / "evaluation" / "test-captions_test-beam2_results.json",
        )
    )
    for key in ("bleu_4", "coco_cider_d", "scenes", "character_bleu_nltk_2"):
        assert again[key] == ours[key]


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ([{"image_id": 7, "caption": "a"}], "has no caption for image 3 (2 such of 3 images)"),
        ([{"image_id": n, "caption": "a"} for n in (3, 7, 12, 99)], "a caption for an image that the split lacks, 99"),
        ([{"image_id": 7, "caption": "a"}] * 2, "image 7 has more than one caption"),
        ([{"image_id": 7}], "not captions in COCO's results format"),
        ([[7, "A dog."]], "entry 1: not captions in COCO's results format"),
        ({"a": 1}, "not captions in COCO's results format"),
        *(
            (
                [{"image_id": 3, "caption": "a"}, {"image_id": 7, "caption": caption}],
                "entry 2: the caption of image 7 is",
            )
            for caption in (None, ["A dog."], [{"generated_text": "A dog."}], 7, math.nan, True, {"text": "A dog."})
        ),
        *(
            ([{"image_id": image_id, "caption": "a"}], f"entry 1: image_id {image_id!r} is not an image's number")
            for image_id in (7.7, math.inf, math.nan, True, None, "7.jpg", [7])
        ),
    ],
)
def test_a_file_of_other_captions_is_refused(theirs, captions, message, capsys, monkeypatch):
    root, path = theirs
    file_of(captions, path)
    code, printed = errors_of(evaluate_command.main, ["--captions", path, "--root", root], capsys, monkeypatch)
    assert code == 2
    assert f"{path}: " in printed
    assert message in printed
    assert not (path.parent / "evaluation").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a run directory to score, or --captions FILE with --root DIR"),
        (["--captions", "a.json"], "--captions needs a run directory or --root DIR"),
        (["--captions", "a.json", "--root", "nowhere"], "data.root='nowhere' is not a directory"),
        (["RUN", "--captions", "a.json"], "a.json: No such file or directory"),
        (["RUN", "--metrics", "blue"], "--metrics"),
        (["RUN", "--beams", "0"], "--beams: decoding.num_beams=0: must be at least 1"),
        (["RUN", "--split", "holdout"], "--split"),
        (["RUN", "--batch-siz", "3"], "--batch-siz: there is no such option; did you mean --decoding.batch-size?"),
        (["--batch-siz", "3", "RUN"], "--batch-siz: there is no such option; did you mean --decoding.batch-size?"),
        (["RUN", "--decoding.num-beams"], "--decoding.num-beams: expected one argument"),
        (["RUN", "--steps", "3"], "--steps: there is no such option"),
        (["nowhere", "--captions", "a.json"], "nowhere: not a run directory"),
    ],
)
def test_mistakes_are_told_in_a_line(finished, arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    named = [finished[0] if each == "RUN" else each for each in arguments]
    code, printed = errors_of(evaluate_command.main, named, capsys, monkeypatch)
    assert code == 2
    assert message in printed


def test_what_a_metric_lacks_is_told_before_anything_is_captioned(workdir, monkeypatch):
    monkeypatch.setenv("PATH", "")
    captioner = Captioner.load(workdir)
    monkeypatch.setattr(captioner, "caption_prepared", None)
    with pytest.raises(MetricError, match="METEOR runs on Java"):
        scoring.evaluate(captioner, workdir, "validation", evaluation=EvaluationConfig(("bleu", "meteor")))
