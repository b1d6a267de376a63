"""Train, be killed, resume, evaluate, caption: the whole line through the commands."""

import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner, captioning
from dualcap_jax import caption as caption_command
from dualcap_jax.config import load_json
from dualcap_jax.errors import ConfigError
from dualcap_jax.models import variables
from dualcap_jax.training.restoring import restore_model

from .commands import HANGS, TINY, command, environment, run


def rows(workdir: Path, split: str) -> list[dict]:
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def model_of(workdir: Path):
    config = load_json(workdir / "config.json")
    return restore_model(workdir, variables.shapes(config.model), "latest")


def test_training_leaves_a_run_directory_that_says_how_it_went(finished):
    workdir, printed = finished
    for name in ("config.json", "tokenizer/vocab.json", "tokenizer/merges.txt", "checkpoints/latest/12", "tensorboard"):
        assert (workdir / name).exists(), name
    for name in ("curves.png", "samples.png"):
        with Image.open(workdir / name) as image:
            assert min(image.size) > 100
    assert [row["step"] for row in rows(workdir, "train")] == [2, 4, 6, 8, 10, 12]
    validations = rows(workdir, "validation")
    assert [row["step"] for row in validations] == [5, 10, 12]
    assert all(math.isfinite(row["loss"]) for row in validations)
    last_lines = printed[printed.index("\ntest: BLEU-1 ") :].splitlines()[1:]
    assert last_lines[-1] == f"caption an image: python -m dualcap_jax.caption {shlex.quote(str(workdir))} IMAGE"
    assert str(workdir) in last_lines[-2]
    assert all(line.startswith("warning: ") for line in last_lines[1:-2])


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(finished, tmp_path, signal_number):
    whole, _ = finished
    workdir = tmp_path / "stopped"
    stop_after = int(np.random.default_rng().integers(2, 5)) * 2
    process = subprocess.Popen(
        command("train", "--workdir", workdir, *TINY), stderr=subprocess.PIPE, text=True, env=environment()
    )
    log = workdir / "metrics.jsonl"
    while process.poll() is None and f'"step": {stop_after}, "split": "train"' not in (
        log.read_text() if log.exists() else ""
    ):
        time.sleep(0.02)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=HANGS)
    if signal_number == signal.SIGTERM and process.returncode != 0:  # 0: it was done before the signal came
        assert process.returncode == 128 + signal.SIGTERM
        assert "saved step" in errors
    resumed = run("train", "--workdir", workdir)
    assert "(resuming)" in resumed.stdout

    (expected, _), (model, step) = model_of(whole), model_of(workdir)
    assert step == 12
    jax.tree.map(np.testing.assert_array_equal, model, expected)
    for split in ("train", "validation"):
        timeless = [
            [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows(w, split)]
            for w in (workdir, whole)
        ]
        if split == "validation":
            assert timeless[0] == timeless[1]
        assert [row["step"] for row in timeless[0]] == [row["step"] for row in timeless[1]]


def test_evaluation_scores_a_split(finished):
    workdir, _ = finished
    printed = run("evaluate", workdir, "--split", "validation", "--decoding.num-beams", "3").stdout
    scores = json.loads((workdir / "evaluation" / "validation-beam3.json").read_text())
    assert scores["images"] == 6 == len(scores["captions"])
    assert scores["split"] == "validation"
    for order in (1, 2, 3, 4):
        assert 0 <= scores[f"bleu_{order}"] <= 100
    assert scores["signature"] in printed
    best = min(rows(workdir, "validation"), key=lambda row: row["loss"])
    assert scores["step"] == best["step"]
    # The same loss as in training's own validation, whatever the batch size.
    assert scores["loss"] == pytest.approx(best["loss"], rel=1e-4)
    assert math.isfinite(scores["loss_all_positions"])  # training validates packed captions, without padding
    assert {"shape", "colour", "count", "relation"} <= set(scores["scenes"])


def test_captions_of_pictures_and_folders(finished, tmp_path):
    workdir, _ = finished
    (tmp_path / "folder").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.jpg", "folder/c.webp", "folder/d.PNG", "folder/e.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / name)
    printed = run("caption", workdir, "a.png", "b.jpg", "folder", cwd=tmp_path).stdout
    names = [line.split("\t")[0] for line in printed.splitlines()]
    assert names == ["a.png", "b.jpg", "folder/c.webp", "folder/d.PNG", "folder/e.png"]

    (tmp_path / "folder" / "broken.png").write_bytes(b"no picture")
    done = run(
        "caption", workdir, "nowhere.png", "folder", "--format", "jsonl", "--num-beams", "1", cwd=tmp_path, code=1
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["image"] for line in lines] == names[2:]
    assert all(line["log_prob"] < 0 for line in lines)
    assert "nowhere.png: No such file" in done.stderr
    assert "folder/broken.png: not an image" in done.stderr


def test_an_image_that_cannot_be_printed_or_read_does_not_end_the_rest(finished, tmp_path):
    names = [b"caf\xe9.png", "caf\u00e9.png".encode(), b"new\nline.png", "\U0001f600.png".encode(), b"z.png"]
    for name in names:
        Image.new("RGB", (40, 40), "red").save(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)), "PNG")
    given = ["x" * 300 + ".png", *map(os.fsdecode, names)]
    for encoding in ("utf-8", "ascii", "latin-1"):
        settings = {**environment(), "PYTHONIOENCODING": encoding}
        for form in ("text", "jsonl"):
            done = subprocess.run(
                command("caption", finished[0], "--format", form, *given),
                cwd=tmp_path,
                env=settings,
                capture_output=True,
            )
            assert done.returncode == 1, done.stderr
            assert b"Traceback" not in done.stderr
            assert b".png: File name too long" in done.stderr
            lines = done.stdout.decode(encoding).splitlines()
            assert len(lines) == len(names)
            if form == "jsonl":
                assert [os.fsencode(json.loads(line)["image"]) for line in lines] == names
            else:
                assert lines[0].split("\t")[0] == r"caf\udce9.png"
                assert lines[2].split("\t")[0] == r"new\nline.png"


def test_a_map_that_cannot_be_written_does_not_end_the_rest(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 40), "red").save(name)
    (tmp_path / "taken").write_text("")
    arguments = [str(finished[0]), "a.png", "b.png", "--prompt", "two red and", "--max-length", "8", "--map", "two"]
    for folder in ("taken", "y" * 300):
        assert caption_command.main([*arguments, "--map-dir", folder]) == 1
        printed = capsys.readouterr()
        assert [line.split("\t")[0] for line in printed.out.splitlines()] == ["a.png", "b.png"]
        assert printed.err.count("no map of it: ") == 2


def test_what_was_seen_of_each_word_is_in_the_json_lines(finished, tmp_path, capsys):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.png")
    arguments = [str(finished[0]), str(tmp_path / "a.png"), "--explain", "True", "--decoding.prompt", "two red"]
    assert caption_command.main([*arguments, "--format", "jsonl"]) == 0
    words = json.loads(capsys.readouterr().out)["words"]
    assert words
    for word in words:
        assert word["seen"] == pytest.approx(word["log_prob"] - word["blind_log_prob"])


def test_maps_of_a_word_are_written_and_its_absence_is_told(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    rng = np.random.default_rng(3)
    for name in ("a.png", "folder/a.jpg", "folder/b.png"):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(name)
    pictures = ["a.png", "folder/a.jpg", "folder/b.png"]
    arguments = [str(finished[0]), *pictures, "--prompt", "two red and two", "--max-length", "10"]
    assert caption_command.main([*arguments, "--map", "Two", "--map-dir", "out"]) == 0
    names = {"a.Two.png", "a.Two-2.png", "a.Two-3.png", "a.Two-4.png", "b.Two.png", "b.Two-2.png"}
    assert names <= {path.name for path in Path("out").iterdir()}  # more where the network says it again
    with Image.open("out/a.Two.png") as image:
        assert image.size == (256, 256)
    capsys.readouterr()

    assert caption_command.main([*arguments, "--map", "zebra"]) == 1
    printed = capsys.readouterr()
    assert [line.split("\t")[0] for line in printed.out.splitlines()] == pictures
    assert [line.split(":")[0] for line in printed.err.splitlines()] == pictures
    assert printed.err.count("has no word 'zebra'") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "folder", "out"]


def test_a_captioner_gives_the_same_caption_whatever_the_batch(finished):
    workdir, _ = finished
    captioner = Captioner.load(workdir)
    rng = np.random.default_rng(1)
    arrays = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(6)]
    captioning._compiled.clear()
    together = captioner(arrays)  # batches of 4: the last one is ragged
    captioner(arrays[:3])
    assert len(captioning._compiled) == 1
    alone = [captioner(array) for array in arrays]
    assert [c.text for c in together] == [c.text for c in alone]
    np.testing.assert_allclose([c.score for c in together], [c.score for c in alone], rtol=1e-4)
    as_image = captioner([Image.fromarray(array) for array in arrays])
    assert as_image == together

    best = captioner(arrays[:1], num_return_sequences=2)[0]
    assert len(best.others) == 1
    assert best.score >= best.others[0].score
    with pytest.raises(ConfigError, match="DecodingConfig has no field beams; did you mean num_beams"):
        captioner(arrays, beams=3)


def test_a_checkpoint_of_another_network_is_told(finished, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(finished[0], workdir)
    config = json.loads((workdir / "config.json").read_text())
    config["model"]["merger"]["hidden"] = [8, 9]
    (workdir / "config.json").write_text(json.dumps(config))
    for arguments in (("evaluate", workdir), ("train", "--workdir", workdir, "--training.steps", "30")):
        assert "does not fit the network of config.json" in run(*arguments, code=2).stderr


def test_captions_begin_and_avoid_as_told_and_say_what_was_seen(finished):
    captioner = Captioner.load(finished[0])
    rng = np.random.default_rng(2)
    arrays = [rng.integers(0, 256, (32, 32, 3), np.uint8) for _ in range(5)]
    free = captioner(arrays, explain=True)
    word = free[0].words[0].text
    for caption in free:
        assert " ".join(each.text for each in caption.words) == caption.text
        assert "".join(caption.tokens).strip() == caption.text
        assert sum(caption.token_log_probs) == pytest.approx(caption.log_prob)
        spelt = sum(each.log_prob for each in caption.words)
        assert spelt == pytest.approx(sum(caption.token_log_probs[: len(caption.tokens)]), abs=1e-3)
        assert any(abs(each.seen) > 1e-6 for each in caption.words)
    told = captioner(arrays, prompt="only two", bad_words=(word,), min_length=6)
    for caption in told:
        assert caption.text.startswith("only two")
        assert f" {word} " not in f" {caption.text} "
        assert len(caption.tokens) >= 3
    drawn = captioner(arrays, do_sample=True, num_return_sequences=2, seed=3)
    assert captioner(arrays[:2], do_sample=True, num_return_sequences=2, seed=3) == drawn[:2]
    assert captioner(arrays, do_sample=True, num_return_sequences=2, seed=4) != drawn


def test_a_finished_run_can_be_trained_longer_but_not_differently(finished, tmp_path):
    workdir, _ = finished
    done = run("train", "--workdir", workdir, "--training.batch-size", "4", "--training.steps", "14", code=2)
    assert "training.batch_size is 8, asked for 4" in done.stderr
    assert "training.steps" not in done.stderr


def test_a_run_starts_from_another_ones_weights_and_tokenizer(finished, tmp_path):
    other = Captioner.load(finished[0])
    workdir = tmp_path / "run"
    still = ["--training.steps", "2", "--training.learning-rate", "0.0"]
    printed = run("train", "--workdir", workdir, "--init-from", finished[0], *still).stdout
    assert "run directory" in printed
    new = Captioner.load(workdir)
    assert new.config.init_from == str(finished[0])
    assert new.config.model == other.config.model  # its experiment too, where none is given
    assert new.tokenizer.encode("two red rings", 30) == other.tokenizer.encode("two red rings", 30)
    jax.tree.map(np.testing.assert_array_equal, new.model["params"], other.model["params"])

    again = run("train", "--workdir", workdir, "--training.steps", "3")  # now its own checkpoint comes first
    assert "(resuming)" in again.stdout
    assert model_of(workdir)[1] == 3

    network = ["--model.merger.hidden", "8", "9"]
    done = run("train", "--workdir", tmp_path / "no", "--init-from", finished[0], *still, *network, code=2)
    assert "--init-from: that run's network is another than this experiment's" in done.stderr
    assert "params.merger" in done.stderr
    assert not (tmp_path / "no").exists()
    done = run("train", "--workdir", tmp_path / "no2", "--init-from", tmp_path / "nowhere", code=2)
    assert f"{tmp_path / 'nowhere'}: no such file or directory" in done.stderr


def test_norms_of_each_part_are_logged(finished):
    for row in rows(finished[0], "train"):
        of_parts = [row[f"grad_norm_{part}"] for part in ("encoder", "language", "merger")]
        assert sum(norm**2 for norm in of_parts) ** 0.5 == pytest.approx(row["grad_norm"], rel=1e-5)
        for part in ("encoder", "language", "merger"):
            assert 0 < row[f"update_norm_{part}"] < row[f"param_norm_{part}"]
