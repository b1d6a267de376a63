"""The exported page, driven in a browser: it captions by itself, also without a network."""

import io
import shutil
import subprocess
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from dualcap_jax import Captioner
from dualcap_jax.exporting.web import RUNTIME

from ..commands import run
from ..serving.test_page import STUBS, browser, choose, expect, playwright, pytestmark  # noqa: F401

pytest.importorskip("jax2onnx", reason="ONNX needs jax2onnx")

SEARCH = {"min_length": 12, "no_repeat_ngram_size": 2}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    """The npm package that the page runs on."""
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("needs npm")
    packed = subprocess.run(["npm", "pack", "onnxruntime-web@1.30.0"], cwd=folder, capture_output=True, text=True)
    if packed.returncode:
        pytest.skip(f"needs the npm registry: {packed.stderr.splitlines()[-1]}")
    (package,) = folder.glob("*.tgz")
    return package


@pytest.fixture(scope="module")
def exported(finished, runtime, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "folder"
    search = [text for name, value in SEARCH.items() for text in (f"--decoding.{name.replace('_', '-')}", value)]
    printed = run("export", finished[0], folder, "--format", "web", "--runtime", runtime, *search).stdout
    assert f"python -m http.server --directory {folder}" in printed
    return folder


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def address(exported):
    """Of a static server of the folder, and what ends it."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=exported))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def end():
        server.shutdown()
        server.server_close()

    yield f"http://127.0.0.1:{server.server_address[1]}/", end
    end()


@pytest.fixture
def page(browser, address):  # noqa: F811
    context, faults = browser.new_context(permissions=["camera"]), []
    context.add_init_script(STUBS)
    page = context.new_page()
    page.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda told: faults.append(told.text) if told.type in ("error", "warning") else None)
    here = (address[0], "blob:", "data:")
    page.on("request", lambda asked: None if asked.url.startswith(here) else faults.append(asked.url))
    page.goto(address[0])
    yield page
    context.close()
    assert not faults


def captioned(page) -> str:
    expect(page.locator("#status")).to_contain_text("Caption: ")
    text = page.locator("#words").inner_text()
    page.evaluate("document.getElementById('status').textContent = ''")
    return text


def shown(text: str) -> str:
    """A caption as a page shows it."""
    return " ".join(text.split())


def test_it_captions_as_python_does_and_without_a_network(page, address, finished, exported, rng):
    captioner = Captioner.load(finished[0])
    images = [path.read_bytes() for path in sorted((exported / "examples").glob("*.png"))]
    for size in [(90, 61), (32, 32), (20, 70)]:
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (*size, 3), "uint8")).save(buffer, "PNG")
        images.append(buffer.getvalue())
    for image in images:
        choose(page, image)
        assert captioned(page) == shown(captioner(image, **SEARCH).text)
    page.evaluate("navigator.serviceWorker.ready.then(() => undefined)")
    address[1]()  # the server ends
    page.reload()
    page.locator("#examples button").first.click()
    assert captioned(page) == shown(captioner(images[0], **SEARCH).text)


def test_the_camera_is_described(page):
    page.click("#start")
    expect(page.locator("#live-caption")).not_to_be_empty()
    assert [each for each in page.evaluate("said") if each]
    page.click("#stop")
    expect(page.locator("#start")).to_be_focused()


def test_what_is_no_picture_is_told(page):
    choose(page, b"none")
    expect(page.locator("#error")).to_have_text("This is not a picture that this browser can read.")


def test_a_mistake_is_one_line(finished, tmp_path):
    other = tmp_path / "other.tgz"
    with tarfile.open(other, "w:gz") as archive:
        archive.add(__file__, "package/package.json")
    for options, told in [
        ([], "error: --runtime: goes with --format web, which needs it"),
        (["--runtime", tmp_path / "none.tgz"], f"error: --runtime {tmp_path / 'none.tgz'}: no onnxruntime-web ("),
        (["--runtime", tmp_path], f"error: --runtime {tmp_path}: no onnxruntime-web ("),
        (["--runtime", other], f"error: --runtime {other}: no onnxruntime-web (\"filename 'package/dist/{RUNTIME[0]}"),
    ]:
        done = run("export", finished[0], tmp_path / "out", "--format", "web", *options, code=2)
        assert done.stderr.startswith(told), done.stderr
        assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
