"""TensorBoard's event files. Imported where a run is written: tensorboardX loads torch, where that is installed."""

import time
from pathlib import Path
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar


class Board:
    """Scalars, step by step.

    Args:
        folder: of the event files.
        start: step from which on what older files show is hidden.
    """

    def __init__(self, folder: Path, start: int):
        folder.mkdir(exist_ok=True)
        self._writer = EventsWriter(str(folder / "events"))
        self._write(start, session_log=SessionLog(status=SessionLog.START))

    def show(self, step: int, name: str, value: float) -> None:
        """One value."""
        self._write(step, summary=scalar(name, value))

    def _write(self, step: int, **content: Any) -> None:
        self._writer.write_event(Event(wall_time=time.time(), step=step, **content))

    def flush(self) -> None:
        """Write what was shown."""
        self._writer.flush()

    def close(self) -> None:
        """Write it, and close the file."""
        self._writer.close()
