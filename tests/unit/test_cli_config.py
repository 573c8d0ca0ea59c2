"""`stsguard config`: what it prints, and its exit codes."""

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

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
    assert run("config", "check", "--config", f"{tmp_path}/a.toml") == (
        0,
        f"{tmp_path}/a.toml: absent, so every key has its default\n",
        "",
    )
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
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_config_show_as_json(tmp_path: Path, run: Run) -> None:
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
    code, _, err = run("config", "show", "--config", "/nonexistent", "--state-dir", f"{tmp_path}/file/x")
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
