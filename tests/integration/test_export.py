"""Policies as folders for static hosting: what is in them, and what is written again."""

from pathlib import Path

import pytest

from stsguard.app.export import Exported, ExportFailed, export_domains
from stsguard.core.hosted import Stage, serialize_policy
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from tests.unit.hosting import hosted

ALL = ("_headers", ".nojekyll", "CNAME", ".well-known/mta-sts.txt")


def test_a_folder_has_what_static_hosts_need(tmp_path: Path) -> None:
    found = list(export_domains([hosted("a.example"), hosted("xn--bcher-kva.example")], tmp_path / "new" / "out"))
    folder = tmp_path / "new" / "out" / "a.example"
    assert found[0] == Exported(Domain("a.example"), folder, ALL)
    assert (folder / ".well-known/mta-sts.txt").read_bytes() == serialize_policy(
        Mode.TESTING, 86_400, (MxPattern.parse("mx.example.net"),)
    )
    assert (folder / "CNAME").read_text() == "mta-sts.a.example\n"
    assert (folder / ".nojekyll").read_bytes() == b""
    assert "Content-Type: text/plain" in (folder / "_headers").read_text()
    assert oct((folder / "CNAME").stat().st_mode & 0o777) == "0o644"
    assert found[1].folder.name == "xn--bcher-kva.example"


def test_only_what_differs_is_written(tmp_path: Path) -> None:
    list(export_domains([hosted("a.example")], tmp_path))
    file = tmp_path / "a.example/.well-known/mta-sts.txt"
    before = file.stat().st_ino
    (tmp_path / "a.example/.git").mkdir()
    assert [each.changed for each in export_domains([hosted("a.example")], tmp_path)] == [()]
    assert file.stat().st_ino == before
    changed = [each.changed for each in export_domains([hosted("a.example", mode=Mode.ENFORCE)], tmp_path)]
    assert changed == [(".well-known/mta-sts.txt",)]
    assert b"mode: enforce\r\n" in file.read_bytes()
    assert [each.name for each in file.parent.iterdir()] == ["mta-sts.txt"]
    assert (tmp_path / "a.example/.git").is_dir()


def test_a_retired_domain_is_named_and_left_alone(tmp_path: Path) -> None:
    retired = hosted("a.example", stage=Stage.RETIRED, mode=Mode.NONE)
    assert [each.left_over for each in export_domains([retired], tmp_path)] == [False]
    assert list(tmp_path.iterdir()) == []
    list(export_domains([hosted("a.example")], tmp_path))
    assert [each.left_over for each in export_domains([retired], tmp_path)] == [True]


def test_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.example").write_text("")
    with pytest.raises(ExportFailed, match=r"a\.example/_headers can't be written: "):
        list(export_domains([hosted("a.example")], tmp_path))
