"""Text files as people's editors leave them: their encodings and line ends, and HTML in captions."""

import codecs
import html
import json
import re
import warnings
from pathlib import Path

from dualcap_jax.data.archives import File
from dualcap_jax.data.records import DataError, Faults
from dualcap_jax.errors import DataWarning

_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")
_DOUBTFUL = re.compile(r"[^\x00-\x7f]{3}|[\x80-\x9f\xa4\xa6\xa8\xaf\xb8\xac\xb6\xb9\u2020\u2021\u02c6\u02dc\u0192]")
"""What Western text hardly has, and other text read as Western does: three such letters in a row, odd signs."""
_INSIDE = re.compile(r"(?<=[^\W\d_])[^\x00-\x7f](?=[^\W\d_])")
_MARKS = "\u2019\u2018\xb4\xb7\u2013\u2014\u2026\xad"
"""What may stand between letters: apostrophes, dots, dashes."""


def read_lines(file: File, faults: Faults, end: str = "", name: str = "") -> list[tuple[int, str]]:
    """The lines of a text file with their numbers.

    UTF-8 is read, with a mark at its start or without; UTF-16 with its mark; and, with a warning, lines of Windows'
    cp1252 that can hardly be anything else. A line may end as Unix, Windows or an old Macintosh ends it.

    Args:
        file: the text.
        faults: what to do about a line that can't be read; it is then left empty.
        end: is put after each line.
        name: of the file, for messages, where it needs its folder.

    Raises:
        DataError: UTF-16 is broken.
        OSError: the file can't be read.
    """
    lines, western, name = [], 0, name or file.name
    for number, raw in enumerate(_raw_lines(file), start=1):
        try:
            line = raw.decode()
        except UnicodeDecodeError as error:
            line = _western(raw) or ""
            western += bool(line)
            if not line:
                faults.report("malformed line", f"{name}:{number}: not UTF-8 ({error}); save the file as UTF-8")
        lines.append((number, line.replace("\r", " ") + end))
    if western and "cp1252" not in faults.remarked:
        faults.remarked.add("cp1252")
        message = f"{name}: not UTF-8 in {western} lines, which are read as Windows' cp1252; save it as UTF-8"
        warnings.warn(message, DataWarning, stacklevel=2)
    return lines


def read_text(file: File, faults: Faults) -> str:
    """All of a text file; see `read_lines`."""
    return "\n".join(line for _, line in read_lines(file, faults))


def read_start(path: Path) -> str:
    """The first characters of a text file, some thousands, as far as they can be told."""
    with path.open("rb") as file:
        data = file.read(1 << 16)
    encoding = "utf-16" if data.startswith(_UTF16) else "utf-8-sig"
    return data.decode(encoding, "replace")


def read_json(file: File) -> object:
    """What a JSON file holds.

    Raises:
        DataError: it is no JSON; names the line.
        OSError: the file can't be read.
    """
    faults = Faults("skip")
    text = read_text(file, faults)
    if faults.skipped:
        raise DataError(next(iter(faults.skipped)))
    try:
        return json.loads(text, strict=False)
    except json.JSONDecodeError as error:
        raise DataError(f"{file.name}:{error.lineno}: not JSON ({error.msg}); write the file anew") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file.name}: not JSON ({error}); write the file anew") from None


def unescape(text: str) -> str:
    """A text with the characters that HTML's entities stand for, such as "&amp;"; other ampersands are left."""
    return _ENTITY.sub(lambda match: html.unescape(match[0]), text)


def _raw_lines(file: File) -> list[bytes]:
    data = file.read_bytes()
    if data.startswith(_UTF16):
        try:
            data = data.decode("utf-16").encode()
        except UnicodeDecodeError as error:
            raise DataError(f"{file.name}: not UTF-16, as it begins ({error}); save it as UTF-8") from None
    data = data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")
    if b"\n" not in data:
        data = data.replace(b"\r", b"\n")
    return data.removesuffix(b"\n").split(b"\n")


def _western(raw: bytes) -> str | None:
    """A line that can hardly be anything but cp1252; None for others."""
    try:
        line = raw.decode("cp1252")
    except UnicodeDecodeError:
        return None
    inside = (match[0] for match in _INSIDE.finditer(line))
    if _DOUBTFUL.search(line) or not all(each.isalpha() or each in _MARKS for each in inside):
        return None
    return line
