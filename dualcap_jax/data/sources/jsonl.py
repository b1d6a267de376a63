"""Files of lines of JSON, each about an image."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from dualcap_jax.data.records import Faults
from dualcap_jax.data.sources.entries import Line, get, is_name
from dualcap_jax.data.sources.texts import read_lines


def read_jsonl(
    path: Path, image_key: str, caption_keys: Sequence[str], faults: Faults, name: str = ""
) -> Iterator[Line]:
    """The lines of a file.

    Args:
        path: the file.
        image_key: under which a line has the image's name.
        caption_keys: under which it may have a caption, or a list of them; the first that is there counts. To them come
            those of the objects under "others": a captioner's next best.
        faults: what to do about a line that is no such object.
        name: of the file, for messages, where it needs its folder.
    """
    name = name or path.name
    for number, line in read_lines(path, faults, name=name):
        where = f"{name}:{number}"
        try:
            row: object = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            faults.report("malformed line", f"{where}: not a line of JSON ({error})")
            continue
        if not line.strip():
            continue
        image, split = get(row, image_key), get(row, "split")
        key = next((key for key in caption_keys if get(row, key) is not None), "captions")
        captions = get(row, key) if key == "captions" or isinstance(get(row, key), list) else [get(row, key)]
        if not isinstance(captions, list) or not is_name(image):
            example = '["...", ...]' if caption_keys[0] == "captions" else '"..."'
            message = f'is not {{"{image_key}": "NAME", "{caption_keys[0]}": {example}}}'
            faults.report("malformed line", f"{where}: {message}")
            continue
        others = get(row, "others") if isinstance(get(row, "others"), list) else []
        more = [get(other, "caption") for other in others if isinstance(get(other, "caption"), str)]
        yield where, image, captions + more, None if split is None else str(split)
