import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dualcap_jax import Captioner
from dualcap_jax.exporting.standalone import ExportedError, load_exported

from ..commands import environment, run


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "folder"
    printed = run("export", finished[0], folder, "--batch-sizes", 1, 3).stdout
    assert f"python {folder / 'caption.py'} IMAGE" in printed
    return folder


def picture(rng, width=60, height=40) -> Image.Image:
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).resize((width, height))


def test_its_captions_and_scores_are_the_captioners(exported, finished, rng):
    images = [picture(rng, 40 + 7 * i, 50) for i in range(5)]
    ours, theirs = Captioner.load(finished[0])(images), load_exported(exported)(images)
    assert [each.text for each in theirs] == [each.text for each in ours]
    for name in ("score", "log_prob"):
        np.testing.assert_allclose(
            [getattr(each, name) for each in theirs], [getattr(each, name) for each in ours], rtol=1e-5
        )


def pictures_of_all_kinds(rng):
    plain = picture(rng)
    turned = Image.Exif()
    turned[0x0112] = 6
    buffer = io.BytesIO()
    plain.save(buffer, "JPEG", exif=turned)
    yield buffer.getvalue()
    for mode in ("L", "P", "CMYK", "1"):
        yield plain.convert(mode)
    clear = plain.copy()
    clear.putalpha(picture(rng).convert("L"))
    yield clear
    yield np.asarray(plain)
    for size in [(32, 32), (33, 32), (31, 90), (500, 20), (1, 1)]:
        yield picture(rng, *size)


def test_it_sees_of_an_image_what_the_captioner_sees(exported, finished, rng):
    ours, theirs = Captioner.load(finished[0]), load_exported(exported)
    for image in pictures_of_all_kinds(rng):
        np.testing.assert_array_equal(theirs.prepare(image), ours.prepare(image))


def test_the_folder_needs_nothing_of_this_package(exported, finished, tmp_path, rng):
    picture(rng).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("none")
    moved = shutil.copytree(exported, tmp_path / "moved")
    without = "import sys; sys.modules.update(dict.fromkeys(%r)); import runpy; sys.argv = sys.argv[1:]; "
    hidden = ["dualcap_jax", "flax", "optax", "orbax", "transformers", "safetensors", "jaxtyping", "typeguard"]
    code = without % hidden + "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, moved / "caption.py", tmp_path / "a.png", tmp_path / "b.png"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout == f"{tmp_path / 'a.png'}\t{Captioner.load(finished[0])(tmp_path / 'a.png').text}\n"
    assert done.stderr.startswith(f"{tmp_path / 'b.png'}: cannot identify image file")
    assert done.stderr.count("\n") == 1


def test_the_search_is_built_in(finished, tmp_path, rng):
    options = ["--decoding.num-beams", 1, "--decoding.prompt", "there is"]
    run("export", finished[0], tmp_path / "out", "--batch-sizes", 2, *options)
    images = [picture(rng), picture(rng)]
    ours = Captioner.load(finished[0])(images, num_beams=1, prompt="there is")
    assert [each.text for each in load_exported(tmp_path / "out")(images)] == [each.text for each in ours]


def test_it_holds_what_runs_on_a_cpu_a_gpu_and_a_tpu(exported):
    from jax import export

    function = export.deserialize(bytearray((exported / "caption-3.stablehlo").read_bytes()))
    assert set(function.platforms) == {"cpu", "cuda", "tpu"}


def test_what_is_not_whole_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported, tmp_path / "broken")

    def refused(told):
        with pytest.raises(ExportedError, match=told):
            load_exported(folder)

    weights = bytearray((folder / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(weights)
    refused(r"weights.safetensors: is not what was exported \(its SHA-256 differs\); export the run anew")
    (folder / "weights.safetensors").unlink()
    refused("weights.safetensors: No such file or directory; export the run anew")
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(manifest | {"version": 9}))
    refused("is dualcap-stablehlo 9, and this reads dualcap-stablehlo 1")
    (folder / "manifest.json").write_text("{")
    refused("no exported captioner")
    done = subprocess.run([sys.executable, folder / "caption.py", "a.png"], capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), done.stderr[:7]) == (1, 1, "error: ")


def test_a_mistake_is_one_line(finished, tmp_path):
    (tmp_path / "file").write_text("x")
    for options, told in [
        ([tmp_path], f"error: {tmp_path}: is not empty; give another name, or --overwrite True"),
        ([tmp_path / "file"], f"error: {tmp_path / 'file'}: is a file; give the name of a folder"),
        ([tmp_path / "new", "--batch-sizes", 0], "error: --batch-sizes=(0,): must be one or more, each at least 1"),
        ([tmp_path / "new", "--decoding.do-sample", "True"], "error: decoding.do_sample=True: what is exported draws"),
        ([tmp_path / "new", "--format", "onnxx"], ""),
    ]:
        done = run("export", finished[0], *options, code=2)
        assert done.stderr.startswith(told), done.stderr
    assert not (tmp_path / "new").exists()
    assert run("export", tmp_path / "none", tmp_path / "new", code=2).stderr.startswith("error: ")
