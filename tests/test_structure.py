"""The structure that the code keeps to: imports go down only."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "dualcap_jax"

LEVELS = [
    {"errors", "files", "interrupts", "starting"},
    {"fields", "owners"},
    {"ops", "cli", "processes", "kept", "detection"},
    {"models", "data", "decoding", "evaluation"},  # which know nothing of each other
    {"pretrained", "inference"},
    {"training"},
    {"config", "encoding", "explain"},
    {"card", "captioning", "detector"},
    {"captioner"},
    {"bulk", "serving"},
    {"exporting"},
    {"scoring", "resolving"},
    {"validation", "teaching"},
    {"fitting", "trainer", "detector_trainer"},
    {"fit", "train", "evaluate", "caption", "prepare", "train_detector", "train_language", "info"},
    {"serve", "export"},
    {"__main__"},
]
"""Rooms, from the bottom; one may import those below it, and itself."""

LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}


def imports(path: Path) -> set[str]:
    """The package's rooms that a file imports, whether at its top or in a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("dualcap_jax.")}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("room", sorted(LEVEL))
def test_a_room_imports_only_what_is_below_it(room):
    paths = [path for path in PACKAGE.rglob("*.py") if room_of(path) == room]
    assert paths
    for path in paths:
        above = {other for other in imports(path) - {room} if LEVEL[other] >= LEVEL[room]}
        assert not above, f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(above))}"


def test_every_file_is_in_a_room():
    assert {room_of(path) for path in PACKAGE.rglob("*.py")} == {*LEVEL, "__init__"}
