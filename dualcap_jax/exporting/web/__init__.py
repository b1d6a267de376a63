"""The page of `dualcap serve` in a folder that any static server serves: the browser computes."""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dualcap_jax.captioner import Captioner
from dualcap_jax.decoding import DecodingConfig
from dualcap_jax.errors import UserError
from dualcap_jax.exporting import Precision
from dualcap_jax.exporting.onnx import export_onnx
from dualcap_jax.files import replacing
from dualcap_jax.serving.examples import draw_examples

RUNTIME = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""What of onnxruntime-web's `dist/` the page loads."""
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; worker-src 'self'; media-src 'self' blob:; base-uri 'none'; form-action 'none'"
)


def export_web(
    captioner: Captioner,
    directory: Path,
    decoding: DecodingConfig,
    precision: Precision,
    runtime: Path,
    about: dict[str, Any],
) -> None:
    """Write the folder.

    Args:
        captioner: to export.
        directory: made where it is not there; files of these names are replaced.
        decoding: the search; the page lets its user choose fewer beams.
        precision: of the weights.
        runtime: the npm package onnxruntime-web: the .tgz of `npm pack`, or the folder that it was unpacked to.
        about: `parts`, `data` and `image_size`, as `info.about` tells them.

    Raises:
        UserError: the package is not there, or not whole.
        ConfigError: as `export_onnx`.
    """
    loaded, examples = dict(_runtime(runtime)), draw_examples()
    with TemporaryDirectory() as model:
        export_onnx(captioner, Path(model), decoding, precision)
        network = {path.name: path.read_bytes() for path in Path(model).iterdir() if path.suffix != ".py"}
    manifest = json.loads(network["manifest.json"])
    manifest["about"] = {
        "parts": {part: each | {"kind": each["kind"].partition(",")[0]} for part, each in about["parts"].items()},
        "data": Path(about["data"]).name,
        "num_beams": sorted({1, min(3, decoding.num_beams), decoding.num_beams}),
        "max_length": [decoding.max_length],
        "usual": {"num_beams": min(3, decoding.num_beams), "max_length": decoding.max_length},
        "max_upload": 100_000_000,
        "examples": [f"examples/{place}.png" for place in range(len(examples))],
    }
    page = files("dualcap_jax.serving") / "page"
    own = files("dualcap_jax.exporting") / "web"
    index = (page / "index.html").read_text(encoding="utf-8")
    policy = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    index = index.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{policy}')
    index = index.replace("It is sent to this server alone, and not kept.", "It does not leave this device.")
    written = {
        "index.html": index.encode(),
        **{f"page/{name}": (page / name).read_bytes() for name in ("page.css", "page.js", "icon.svg")},
        "page/backend.js": (own / "backend.js").read_bytes(),
        **{f"page/runtime/{name}": data for name, data in loaded.items()},
        **{f"page/model/{name}": data for name, data in network.items()},
        "page/model/manifest.json": json.dumps(manifest, indent=2).encode(),
        **{f"examples/{place}.png": data for place, data in enumerate(examples)},
    }
    names = json.dumps(["./", *written])
    digest = hashlib.sha256(b"".join(written.values())).hexdigest()[:16]
    worker = (own / "service-worker.js").read_text(encoding="utf-8")
    written["service-worker.js"] = worker.replace("VERSION", digest).replace('["FILES"]', names).encode()
    for name, data in written.items():
        with replacing(directory / name) as file:
            file.write_bytes(data)


def _runtime(package: Path) -> Iterator[tuple[str, bytes]]:
    """The files that are loaded of onnxruntime-web, and its licence.

    Raises:
        UserError: the package is not there, or is another.
    """
    mend = "give what `npm pack onnxruntime-web` writes, or the folder of it in node_modules"
    wanted = {**{f"dist/{name}": name for name in RUNTIME}, "package.json": "package.json"}
    try:
        if package.is_dir():
            yield from ((name, (package / path).read_bytes()) for path, name in wanted.items())
            return
        with tarfile.open(package) as archive:
            for path, name in wanted.items():
                member = archive.extractfile(f"package/{path}")
                assert member is not None
                yield name, member.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise UserError(f"--runtime {package}: no onnxruntime-web ({error}); {mend}") from None
