"""[sessions] and [reports] of the configuration: one table or several, and values that have to do with mail."""

from pathlib import Path

import pytest

from stsguard.config.load import load, missing_files, with_state_dir
from stsguard.config.mail_values import Journal, MailLogFile, SendmailCommand
from stsguard.config.model import Origin
from stsguard.config.values import InetAddress
from tests.unit.test_config import problems, write

SOCKET = 'allowed: an absolute path of up to 107 bytes, or "" for none'
MODE = 'allowed: an octal mode such as "0622", which lets somebody write'
ADDRESS = 'allowed: a mail address such as "tlsrpt@example.com", or "" for'
VIA = 'allowed: "smtp:HOST:PORT" or "sendmail:/PATH"'
# The file and the message without the file's name in front.
BROKEN = [
    # several tables of one section
    (
        '[[sessions]]\nsyslog_name = "a"\n[[sessions]]\nsyslog_nam = "b"',
        '[[sessions]] #2 syslog_nam = "b": unknown key; did you mean "syslog_name"?',
    ),
    (
        '[[sessions]]\ntlsrpt_mode = "0555"',
        f'[[sessions]] #1 tlsrpt_mode = "0555": nobody could send; {MODE}',
    ),
    (
        "sessions = [1]",
        'sessions = [1]: "sessions" is a section: its keys go below a line [sessions]',
    ),
    (
        "sessions = 1",
        'sessions = 1: "sessions" is a section: its keys go below a line [sessions]',
    ),
    (
        '[[sessions]]\ntlsrpt_socket = "/a"\n[[sessions]]\ntlsrpt_socket = "/b"',
        (
            '[[sessions]] #2 syslog_name = "postfix": the same as in [[sessions]] #1; '
            "allowed: one of its own for each Postfix instance"
        ),
    ),
    (
        '[[sessions]]\ntlsrpt_socket = ""\n[[sessions]]\nsyslog_name = "a"\n[[sessions]]\nsyslog_name = "b"',
        (
            '[[sessions]] #3 tlsrpt_socket = "/var/spool/postfix/stsguard/tlsrpt.sock": the same as in '
            "[[sessions]] #2; allowed: one of its own for each Postfix instance"
        ),
    ),
    # mail
    (
        '[sessions]\ntlsrpt_socket = "run/x"',
        f'[sessions] tlsrpt_socket = "run/x": not an absolute path; {SOCKET}',
    ),
    (
        f'[sessions]\ntlsrpt_socket = "/{"é" * 54}"',
        f'[sessions] tlsrpt_socket = "/{"é" * 54}": too long for a socket; {SOCKET}',
    ),
    (
        '[sessions]\ntlsrpt_owner = "a b"',
        (
            '[sessions] tlsrpt_owner = "a b": not the name of a user; '
            'allowed: the name or number of a user, or "" for that of the daemon'
        ),
    ),
    (
        '[sessions]\ntlsrpt_group = "-x"',
        (
            '[sessions] tlsrpt_group = "-x": not the name of a group; '
            'allowed: the name or number of a group, or "" for that of the daemon'
        ),
    ),
    ("[sessions]\ntlsrpt_mode = 0o622", f"[sessions] tlsrpt_mode = 402: not a string; {MODE}"),
    ('[sessions]\ntlsrpt_mode = "0888"', f'[sessions] tlsrpt_mode = "0888": not an octal mode; {MODE}'),
    ('[sessions]\ntlsrpt_mode = "4622"', f'[sessions] tlsrpt_mode = "4622": not an octal mode; {MODE}'),
    (
        '[sessions]\nmail_log = "mail.log"',
        (
            '[sessions] mail_log = "mail.log": neither an absolute path nor "journal"; '
            'allowed: an absolute path, "journal", or "" for none'
        ),
    ),
    (
        '[sessions]\nsyslog_name = ""',
        (
            '[sessions] syslog_name = "": not a syslog_name; '
            "allowed: letters, digits, _ . - and /, as in syslog_name of main.cf"
        ),
    ),
    ('[reports]\nfrom = "example.com"', f'[reports] from = "example.com": not a mail address; {ADDRESS} no reports'),
    (
        '[reports]\nfrom = "a b@x.example"',
        f'[reports] from = "a b@x.example": not a mail address; {ADDRESS} no reports',
    ),
    (
        f'[reports]\nfrom = "{"a" * 65}@x.example"',
        f'[reports] from = "{"a" * 65}@x.example": not a mail address; {ADDRESS} no reports',
    ),
    (
        '[reports]\ncontact = "a@-.example"',
        f"[reports] contact = \"a@-.example\": '-' is not a label of a host name; {ADDRESS} that of from",
    ),
    (
        f'[reports]\norganization = "{"x" * 201}"',
        (
            f'[reports] organization = "{"x" * 118}…: too long; '
            'allowed: text of up to 200 characters, or "" for the domain of from'
        ),
    ),
    ('[reports]\nsend_via = "localhost"', f'[reports] send_via = "localhost": no way to hand over mail; {VIA}'),
    ('[reports]\nsend_via = "smtp:mx"', f'[reports] send_via = "smtp:mx": no way to hand over mail; {VIA}'),
    ('[reports]\nsend_via = "lmtp:a:24"', f'[reports] send_via = "lmtp:a:24": no way to hand over mail; {VIA}'),
    (
        '[reports]\nsend_via = "smtp:localhost:0"',
        f'[reports] send_via = "smtp:localhost:0": "0" is no port; {VIA}',
    ),
    (
        '[reports]\nsend_via = "sendmail:sendmail"',
        f'[reports] send_via = "sendmail:sendmail": "sendmail" is not an absolute path; {VIA}',
    ),
    (
        '[reports]\nnever_to = "example.com"',
        '[reports] never_to = "example.com": not a list; allowed: a list of domain names',
    ),
    (
        '[reports]\nnever_to = ["example.com", ""]',
        '[reports] never_to = ["example.com", ""]: the name is empty; allowed: a list of domain names',
    ),
    (
        '[reports]\ndkim_selector = "s1"',
        '[reports] dkim_selector = "s1": nothing is signed without dkim_key_file; allowed: both or neither',
    ),
    (
        '[reports]\ndkim_key_file = "/k"',
        '[reports] dkim_key_file = "/k": nothing is signed without dkim_selector; allowed: both or neither',
    ),
]


@pytest.mark.parametrize(("text", "message"), BROKEN, ids=range(len(BROKEN)))
def test_broken_configuration(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    assert problems(file) == (f"{file}: {message}",)


def test_state_dir_takes_the_socket_of_that_instance_which_names_none(tmp_path: Path) -> None:
    text = '[[sessions]]\nsyslog_name = "a"\n[[sessions]]\nsyslog_name = "b"\ntlsrpt_socket = "/b.sock"\n'
    config = with_state_dir(load(write(tmp_path, text)), tmp_path / "state")
    assert [each.tlsrpt_socket for each in config.sessions] == [tmp_path / "state/tlsrpt.sock", Path("/b.sock")]
    assert config.origins("sessions", "tlsrpt_socket") == (Origin.STATE_DIR, Origin.FILE)


def test_one_instance_of_postfix_or_several(tmp_path: Path) -> None:
    (only,) = load(tmp_path / "absent.toml").sessions
    assert (only.tlsrpt_socket, only.syslog_name) == (Path("/var/spool/postfix/stsguard/tlsrpt.sock"), "postfix")
    assert (only.tlsrpt_owner, only.tlsrpt_group, only.tlsrpt_mode, only.mail_log) == ("", "", 0o622, None)
    (only,) = load(write(tmp_path, '[sessions]\ntlsrpt_socket = ""\nmail_log = "journal"\n')).sessions
    assert (only.tlsrpt_socket, only.mail_log) == (None, Journal())
    config = load(
        write(
            tmp_path,
            """
            [[sessions]]
            tlsrpt_group = "postfix"
            tlsrpt_mode = "620"
            tlsrpt_owner = "0"
            mail_log = "/var/log/mail.log"
            [[sessions]]
            tlsrpt_socket = "/var/spool/postfix-out/stsguard/tlsrpt.sock"
            syslog_name = "postfix-out/smtp"
            [log]
            format = "json"
            """,
        )
    )
    first, second = config.sessions
    assert (first.tlsrpt_owner, first.tlsrpt_group, first.tlsrpt_mode) == ("0", "postfix", 0o620)
    assert (first.mail_log, first.syslog_name) == (MailLogFile(Path("/var/log/mail.log")), "postfix")
    assert second.tlsrpt_socket == Path("/var/spool/postfix-out/stsguard/tlsrpt.sock")
    assert (second.syslog_name, second.mail_log) == ("postfix-out/smtp", None)
    assert config.origins("sessions", "mail_log") == (Origin.FILE, Origin.DEFAULT)
    assert config.origins("log", "format") == (Origin.FILE,)
    assert {each.table for each in config.settings if each.option.section == "sessions"} == {1, 2}
    assert load(write(tmp_path, "sessions = []")).sessions == ()


def test_instances_may_share_a_log_and_have_no_socket(tmp_path: Path) -> None:
    table = '[[sessions]]\ntlsrpt_socket = ""\nmail_log = "journal"\nsyslog_name = '
    assert len(load(write(tmp_path, f'{table}"a"\n{table}"b"\n')).sessions) == 2


def test_conflicts_are_judged_once_each_value_is_right(tmp_path: Path) -> None:
    (problem,) = problems(write(tmp_path, '[reports]\ndkim_selector = "s"\ndkim_key_file = "k"\n'))
    assert "not an absolute path" in problem


def test_reports_are_sent_once_there_is_a_sender(tmp_path: Path) -> None:
    reports = load(tmp_path / "absent.toml").reports
    assert (reports.sending, reports.from_, reports.send_via) == (False, None, InetAddress("127.0.0.1", 25))
    assert (reports.spread_seconds, reports.retry_for_seconds, reports.keep_seconds) == (14_400, 86_400, 2_592_000)
    reports = load(
        write(
            tmp_path,
            """
            [reports]
            from = "TLS-Reports@Bücher.Example"
            organization = "Bücher und mehr"
            contact = "postmaster@example.com"
            dkim_domain = "example.com"
            dkim_selector = "2026.tlsrpt"
            dkim_key_file = "/etc/stsguard/dkim.pem"
            send_via = "sendmail:/usr/sbin/sendmail"
            never_to = ["Example.NET", "bücher.example"]
            keep_copies = "/var/lib/stsguard/reports"
            https_verify = false
            """,
        )
    ).reports
    assert (reports.sending, reports.from_) == (True, "TLS-Reports@xn--bcher-kva.example")
    assert (reports.organization, reports.contact) == ("Bücher und mehr", "postmaster@example.com")
    assert (reports.dkim_domain, reports.dkim_selector) == ("example.com", "2026.tlsrpt")
    assert reports.send_via == SendmailCommand(Path("/usr/sbin/sendmail"))
    assert reports.never_to == ("example.net", "xn--bcher-kva.example")
    assert (reports.keep_copies, reports.https_verify) == (Path("/var/lib/stsguard/reports"), False)
    assert not load(write(tmp_path, '[reports]\nfrom = "a@example.com"\nenabled = false\n')).reports.sending


def test_dkim_key_has_to_be_there(tmp_path: Path) -> None:
    file = write(tmp_path, f'[reports]\ndkim_selector = "s"\ndkim_key_file = "{tmp_path}/dkim.pem"\n')
    assert missing_files(load(file)) == (
        f'{file}: [reports] dkim_key_file = "{tmp_path}/dkim.pem": there is no such file',
    )
