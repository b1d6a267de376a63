"""What is captioned so far, a JSON line each: it outlives whatever ends the process."""

import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from dualcap_jax.bulk.outputs import Row
from dualcap_jax.errors import ConfigError, UserError


class DiskFull(UserError):
    """There is no room for more captions; those before are safe."""

    exit_code = 1


class Journal:
    """Rows by the names of their images, in a file; a row of the same name replaces the one before.

    Args:
        path: the file; made where it is not there, else gone on with.
        about: what the rows hang on; noted in the first line.

    Raises:
        ConfigError: the file's rows hang on something else.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]):
        self._path, self._places = path, dict[str, int]()
        self._file = path.open("a+b")
        self._file.seek(0)
        whole = 0
        for line in self._file:
            if not line.endswith(b"\n"):  # cut by what ended the process
                break
            values = json.loads(line)
            if whole:
                self._places[values["image"]] = whole
            else:
                self._refuse_others(values, json.loads(json.dumps(about)))
            whole += len(line)
        self._file.truncate(whole)
        self._end = whole
        if not whole:
            self._write(about)

    def _refuse_others(self, there: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        for name, value in about.items():
            if there.get(name) != value:
                raise ConfigError(
                    f"{self._path}: was begun with {name} {there.get(name)}, not {value}; give the same again, another "
                    "--out, or --overwrite True"
                )

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __getitem__(self, name: str) -> Row:
        self._file.seek(self._places[name])
        row: Row = json.loads(self._file.readline())
        return row

    def add(self, rows: Iterable[Row]) -> None:
        """Note rows.

        Raises:
            DiskFull: there is no room for them.
        """
        for row in rows:
            place = self._end
            self._write(row)
            self._places[row["image"]] = place

    def _write(self, values: Mapping[str, Any]) -> None:
        line = json.dumps(values).encode() + b"\n"
        try:
            self._file.write(line)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                raise
            raise DiskFull(
                f"{self._path}: {os.strerror(error.errno)}; {len(self):,} captions are safe there: make room, and the "
                "same command goes on"
            ) from None
        self._end += len(line)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):  # what is left to be written after `DiskFull`
            self._file.close()
