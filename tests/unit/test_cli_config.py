"""`stsguard config`: what it prints, and its exit codes."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from stsguard.cli import config, options
from stsguard.cli.main import main
from stsguard.config.options import OPTIONS

PASSWORD = "correct-horse"  # noqa: S105 (of nothing)
Run = Callable[..., tuple[int, str, str]]


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "stsguard.toml"
    file.write_text(text)
    return file


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command: its exit code, standard output and standard error."""

    def invoke(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(arguments, prog_name="stsguard")
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    return invoke


def test_config_check(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, "[log]\n")
    assert run("--config", str(file), "config", "check") == (0, f"{file}: valid\n", "")
    file = write(tmp_path, '[log]\nlevel = "loud"\nx = 1')
    wrong = [
        f'{file}: [log] level = "loud": not one of the choices; allowed: "debug", "info", "warning" or "error"',
        f'{file}: [log] x = 1: unknown key; known here: "level", "format"',
    ]
    assert run("config", "check", "--config", str(file)) == (1, "", "".join(f"{line}\n" for line in wrong))
    code, out, _ = run("config", "check", "--json", "--config", str(file))
    assert (code, json.loads(out)) == (1, {"file": str(file), "present": True, "valid": False, "errors": wrong})


def test_config_show_tells_values_and_where_they_come_from(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, f'[store]\nurl = "postgresql://u:{PASSWORD}@db.example.com/x"\n[log]\nformat = "json"\n')
    code, out, _ = run("config", "show", "--config", str(file), "--state-dir", str(tmp_path / "state"))
    assert code == 0
    lines = [re.sub(r" +", " ", line) for line in out.splitlines()]
    assert lines[0] == f"# {file}"
    assert 'url = "postgresql://u:***@db.example.com/x" # file' in lines
    assert 'level = "info" # default' in lines
    assert f'listen = "unix:{tmp_path}/state/admin.sock" # --state-dir' in lines
    assert tomllib.loads(out)["log"] == {"level": "info", "format": "json"}
    assert not (tmp_path / "state").exists()  # nothing is kept there by looking


@pytest.mark.parametrize("before", [True, False])
def test_file_that_is_named_has_to_be_there(tmp_path: Path, run: Run, before: bool) -> None:
    """Mistyped, it would be taken for a file that leaves every key at its default."""
    absent = ("--config", f"{tmp_path}/a.toml")
    refused = f"{tmp_path}/a.toml: there is no such file, and --config names it\n"
    for command in (("config", "show"), ("config", "check"), ("received", "list"), ("outbound",), ("db", "upgrade")):
        assert run(*absent, *command) if before else run(*command, *absent) == (1, "", refused)
    for command in (("status",), ("lookup", "a.example")):
        assert run(*command, *absent) == (3, "", refused)


def test_default_file_may_be_absent(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    default = tmp_path / "default.toml"
    monkeypatch.setattr(options, "DEFAULT_CONFIG", default)
    monkeypatch.setattr(config, "DEFAULT_CONFIG", default)
    said = f"{default}: absent, so every key has its default\n"
    assert run("config", "check", "--config", str(default)) == (0, said, "")
    assert run("config", "show", "--config", str(default))[0] == 0


READING = (
    ("received", "list"),
    ("received", "summary"),
    ("received", "show", "1"),
    ("received", "export"),
    ("received", "prune"),
    ("report", "list"),
    ("domain", "list"),
    ("domain", "show", "a.example"),
    ("domain", "readiness", "a.example"),
    ("ingest", "--again"),
)


@pytest.mark.parametrize("command", READING, ids=" ".join)
def test_what_only_reads_makes_neither_directory_nor_database(
    tmp_path: Path, run: Run, command: tuple[str, ...]
) -> None:
    file = write(tmp_path, "")
    there = tmp_path / "there"
    there.mkdir()
    for directory in (tmp_path / "mistyped", there):
        code, out, err = run(*command, "--config", str(file), "--state-dir", str(directory))
        assert (code, out) == (3, "")
        assert f"SQLite database {directory}/stsguard.db: there is none. Either nothing has been stored yet" in err
        assert "--state-dir or [store] url names the wrong place" in err
    assert not (tmp_path / "mistyped").exists()
    assert list(there.iterdir()) == []


def test_config_show_as_json(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "DEFAULT_CONFIG", tmp_path / "a.toml")
    code, out, _ = run("config", "show", "--json", "--config", f"{tmp_path}/a.toml")
    shown = json.loads(out)
    assert (code, shown["present"], len(shown["options"])) == (0, False, len(OPTIONS))
    assert shown["options"][-1] == {"section": "log", "key": "format", "value": "text", "origin": "default"}


def test_config_show_has_a_table_for_each_instance(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, '[[sessions]]\nsyslog_name = "a"\n[[sessions]]\ntlsrpt_socket = "/b"\n')
    code, out, _ = run("config", "show", "--config", str(file))
    assert code == 0
    names = [(table["syslog_name"], table["tlsrpt_socket"]) for table in tomllib.loads(out)["sessions"]]
    assert names == [("a", "/var/spool/postfix/stsguard/tlsrpt.sock"), ("postfix", "/b")]
    _, out, _ = run("config", "show", "--json", "--config", str(file))
    shown = [each for each in json.loads(out)["options"] if each["key"] == "syslog_name"]
    assert [(each["value"], each["table"], each["origin"]) for each in shown] == [
        ("a", 1, "file"),
        ("postfix", 2, "default"),
    ]


def test_config_show_refuses_a_broken_file(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, "[lokup]\n")
    assert run("config", "show", "--config", str(file)) == (
        1,
        "",
        f"{file}: [lokup]: unknown section; did you mean [lookup]?\n",
    )


def test_state_dir_that_cannot_be_made(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    code, _, err = run("db", "upgrade", "--config", "/dev/null", "--state-dir", f"{tmp_path}/file/x")
    assert (code, err) == (1, f"--state-dir {tmp_path}/file/x: can't be made: Not a directory\n")


def test_config_check_takes_the_state_dir_and_makes_nothing(tmp_path: Path, run: Run) -> None:
    file = write(tmp_path, "")
    absent = tmp_path / "absent"
    assert run("config", "check", "--config", str(file), "--state-dir", str(absent)) == (0, f"{file}: valid\n", "")
    assert not absent.exists()
    code, _, err = run("config", "check", "--config", str(file), "--state-dir", f"{tmp_path}/{'x' * 120}")
    assert (code, "--state-dir" in err) == (1, True)


def test_config_check_reads_the_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "overrides.toml").write_text('["a.example"]\nexempt = false\n', encoding="utf-8")
    config = tmp_path / "stsguard.toml"
    config.write_text(f'[lookup]\noverrides = "{tmp_path}/overrides.toml"\n', encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["config", "check", "--config", str(config)])
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        f'{tmp_path}/overrides.toml: ["a.example"] exempt = False: must be true; to end it, delete the entry\n'
    )
