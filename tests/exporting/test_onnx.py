import shutil
import subprocess
import sys

import numpy as np
import pytest

from dualcap_jax import Captioner
from dualcap_jax.exporting.standalone import ExportedError, load_exported
from dualcap_jax.models.mergers.merger import PUBLISHED_HIDDEN

from ..commands import TINY, environment, run
from .test_stablehlo import picture

pytest.importorskip("jax2onnx", reason="ONNX needs jax2onnx")

SHORT = ["--training.steps", 2, "--training.warmup-steps", 1]


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "folder"
    run("export", finished[0], folder, "--format", "onnx")
    return folder


def assert_same(folder, workdir, rng, count=6, **settings):
    """The exported captioner gives the captions of the run's."""
    images = [picture(rng, 40 + 7 * i, 50) for i in range(count)]
    ours, theirs = Captioner.load(workdir)(images, **settings), load_exported(folder)(images)
    assert [each.text for each in theirs] == [each.text for each in ours]
    for name in ("score", "log_prob"):
        np.testing.assert_allclose(
            [getattr(each, name) for each in theirs], [getattr(each, name) for each in ours], rtol=1e-4
        )


def test_its_captions_and_scores_are_the_captioners(exported, finished, rng):
    assert_same(exported, finished[0], rng)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 4, "early_stopping": False, "length_penalty": 0.6, "max_length": 12},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": 2.0, "prompt": "there is"},
        {"num_beams": 5, "length_penalty": -1.0, "no_repeat_ngram_size": 2},
        {"num_beams": 1, "no_repeat_ngram_size": 1, "min_length": 9},
        {"num_beams": 3, "length_penalty": 0.2, "min_length": 14},
    ],
)
def test_every_search_is_transformers(finished, tmp_path, rng, settings):
    options = [text for name, value in settings.items() for text in (f"--decoding.{name.replace('_', '-')}", value)]
    run("export", finished[0], tmp_path / "out", "--format", "onnx", *options)
    assert_same(tmp_path / "out", finished[0], rng, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["skip_mlp", "two_stream", "gru_two_stream", "gru"])
def test_every_merger_is_exported(tmp_path, rng, kind):
    hidden = ["--model.merger.hidden", *[8] * len(PUBLISHED_HIDDEN[kind])]
    run("train", "--workdir", tmp_path / "run", *TINY, *SHORT, "--model.merger.kind", kind, *hidden)
    run("export", tmp_path / "run", tmp_path / "out", "--format", "onnx")
    assert_same(tmp_path / "out", tmp_path / "run", rng)


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_smaller_numbers_make_it_smaller(exported, finished, tmp_path, rng, precision):
    run("export", finished[0], tmp_path / "out", "--format", "onnx", "--precision", precision)
    sizes = [sum(path.stat().st_size for path in folder.glob("*.onnx")) for folder in (exported, tmp_path / "out")]
    assert sizes[1] < 0.95 * sizes[0]  # of so small a network the graphs themselves take much
    caption = load_exported(tmp_path / "out")(picture(rng))
    assert np.isfinite(caption.score)


def test_the_folder_needs_neither_jax_nor_this_package(exported, finished, tmp_path, rng):
    picture(rng).save(tmp_path / "a.png")
    moved = shutil.copytree(exported, tmp_path / "moved")
    hidden = ["jax", "jaxlib", "flax", "dualcap_jax", "onnx", "jax2onnx", "transformers"]
    code = f"import sys; sys.modules.update(dict.fromkeys({hidden})); import runpy; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, moved / "caption.py", tmp_path / "a.png"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    expected = Captioner.load(finished[0])(tmp_path / "a.png").text
    assert (done.stdout, done.stderr) == (f"{tmp_path / 'a.png'}\t{expected}\n", "")


def test_what_it_can_not_do_is_told_in_a_line(finished, exported, tmp_path):
    for option, told in [
        (["--decoding.top-k", 9], "decoding.top_k=9: ONNX's search has 0 alone"),
        (["--decoding.do-sample", "True"], "decoding.do_sample=True: ONNX's search has False alone"),
    ]:
        done = run("export", finished[0], tmp_path / "out", "--format", "onnx", *option, code=2)
        assert done.stderr == f"error: {told}\n"
    folder = shutil.copytree(exported, tmp_path / "changed")
    (folder / "merger.onnx").write_bytes((folder / "merger.onnx").read_bytes() + b"x")
    with pytest.raises(ExportedError, match=r"merger.onnx: is not what was exported"):
        load_exported(folder)
