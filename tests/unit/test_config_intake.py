"""The options about taking in reports: what is accepted, and every message on what is not."""

from pathlib import Path

import pytest

from stsguard.config.intake_options import IntakeAction, RequireDkim
from stsguard.config.load import ConfigProblems, load, with_state_dir
from stsguard.config.model import Config
from stsguard.config.values import InetAddress, UnixAddress
from stsguard.names import Domain

ADDRESSES = 'allowed: a list of mail addresses such as "tlsrpt@example.com", each once'
PATH = 'allowed: a path such as "/tlsrpt", or "" for none are taken by HTTPS'
BROKEN = [
    ('addresses = "a@x.example"', f'addresses = "a@x.example": not a list; {ADDRESSES}'),
    ('addresses = ["x.example"]', f'addresses = ["x.example"]: not a mail address; {ADDRESSES}'),
    ('addresses = [""]', f'addresses = [""]: names an empty address; {ADDRESSES}'),
    ('addresses = ["a@x.example", "A@X.example"]', f"names an address twice; {ADDRESSES}"),
    ('http_path = "tlsrpt"', f'http_path = "tlsrpt": not the path of a URL; {PATH}'),
    ('http_path = "/a?b"', f'http_path = "/a?b": not the path of a URL; {PATH}'),
    ('http_path = "/.well-known/x"', f"below /.well-known/ policies and challenges are served; {PATH}"),
    ('spool = "spool"', 'spool = "spool": not an absolute path; allowed: an absolute path'),
    ('spool = ""', 'spool = "": not an absolute path; allowed: an absolute path'),
    ("require_dkim = true", 'require_dkim = true: not a string; allowed: "keep" or "reject"'),
    ("max_compressed = 10", "max_compressed = 10: out of range; allowed: 65536 to 104857600 bytes"),
]


def loaded(tmp_path: Path, text: str) -> Config:
    file = tmp_path / "stsguard.toml"
    file.write_text(text, encoding="utf-8")
    return load(file)


@pytest.mark.parametrize(("text", "message"), BROKEN)
def test_value_that_is_not_allowed_says_so(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        loaded(tmp_path, f"[intake]\n{text}")
    assert str(caught.value).endswith(message)


def test_defaults_take_nothing_in_that_nobody_asked_for(tmp_path: Path) -> None:
    config = loaded(tmp_path, "")
    assert (config.intake.addresses, config.intake.http_path, config.intake.trust_https) == ((), None, False)
    assert config.intake.require_dkim is RequireDkim.KEEP
    assert config.intake.spool == Path("/var/spool/stsguard")
    assert config.intake.keep_raw_seconds == 400 * 86400
    assert config.milter.socket == InetAddress("127.0.0.1", 8462)
    assert config.milter.intake_action is IntakeAction.ACCEPT


def test_values_are_read(tmp_path: Path) -> None:
    config = loaded(
        tmp_path,
        """
        [intake]
        addresses = ["TLS@Example.COM"]
        domains = ["Example.COM"]
        http_path = "/v1/tlsrpt"
        require_dkim = "reject"
        [milter]
        socket = "unix:/run/milter.sock"
        intake_action = "discard"
        """,
    )
    assert config.intake.addresses == ("TLS@example.com",)
    assert config.intake.domains == (Domain.parse("example.com"),)
    assert config.intake.http_path == "/v1/tlsrpt"
    assert config.intake.require_dkim is RequireDkim.REJECT
    assert config.milter.socket == UnixAddress(Path("/run/milter.sock"))
    assert config.milter.intake_action is IntakeAction.DISCARD


def test_spool_is_inside_the_state_directory(tmp_path: Path) -> None:
    assert with_state_dir(loaded(tmp_path, ""), tmp_path / "s").intake.spool == tmp_path / "s" / "spool"
