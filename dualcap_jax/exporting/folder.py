"""What every folder that `standalone` reads has in it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dualcap_jax.captioner import Captioner
from dualcap_jax.exporting import standalone
from dualcap_jax.files import replacing, write_text


def write_folder(
    captioner: Captioner, directory: Path, files: Mapping[str, bytes], packages: Sequence[str], about: Mapping[str, Any]
) -> None:
    """Write files, the tokenizer, the script that reads them, and the manifest.

    Args:
        captioner: that is exported.
        directory: made where it is not there; files of these names are replaced.
        files: what is read, by name.
        packages: whose versions are noted.
        about: what the manifest says beside what all say: `format`, `search` and so on.
    """
    files = {**files, "tokenizer.json": captioner.tokenizer.to_json().encode()}
    for name, data in {**files, "caption.py": Path(standalone.__file__).read_bytes()}.items():
        with replacing(directory / name) as file:
            file.write_bytes(data)
    transform = captioner.config.data.transform
    manifest = {
        **about,
        "version": standalone.VERSION,
        "made_with": {name: version(name) for name in ("dualcap-jax", "jax", *packages)},
        "step": captioner.step,
        "image": {"size": transform.size, "resize": transform.resize, "interpolation": transform.interpolation},
        "end_id": captioner.tokenizer.end_id,
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    write_text(directory / "manifest.json", json.dumps(manifest, indent=2) + "\n")  # last: without it, it is none
