"""Every saved input goes through its target, without atheris: seeds, and whatever a fuzzer once found."""

from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
FILES = [pytest.param(file, id=f"{file.parent.name}/{file.name}") for file in sorted(CORPUS.glob("*/*"))]


@pytest.mark.parametrize("file", FILES)
def test_saved_input(file: Path) -> None:
    TARGETS[file.parent.name](file.read_bytes())


def test_each_target_has_seeds_and_each_directory_a_target() -> None:
    assert {directory.name for directory in CORPUS.iterdir() if directory.is_dir()} == set(TARGETS)
    assert all(any((CORPUS / name).iterdir()) for name in TARGETS)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_target_takes_any_bytes(name: str) -> None:
    for data in (b"", b"\x00", b"\xff\xfe", b"\n" * 100, bytes(range(256)), "\u202e\U000e0001é".encode() * 50):
        TARGETS[name](data)
