"""What is built to cost much costs little: each bomb is taken apart in a process of its own, in 100 MB and a second.

The bound on memory is RLIMIT_AS, so that a process that wanted more would fail, not be measured.
"""

import gzip
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zips import zipped

MEBIBYTE = 1 << 20
BEGIN = (
    b'{"organization-name":"x","date-range":{"start-datetime":"2026-03-01T00:00:00Z",'
    b'"end-datetime":"2026-03-01T23:59:59Z"},"contact-info":"a@example.com","report-id":"r","policies":['
)
POLICY = (
    b'{"policy":{"policy-type":"sts","policy-domain":"example.com","policy-string":["a","b","c","d"]},'
    b'"summary":{"total-successful-session-count":1,"total-failure-session-count":0}}'
)
BOMBS = {
    "gzip of 1 GB": lambda: gzip.compress(b"{" + b" " * (1000 * MEBIBYTE), 1),
    "zip of 4 times 200 MB": lambda: zipped(dict.fromkeys("abcd", b"{" + b" " * (200 * MEBIBYTE))),
    "20 MB of brackets": lambda: gzip.compress(b'{"policies":' + b"[" * (19 * MEBIBYTE), 1),
    "7 MB of empty arrays": lambda: gzip.compress(b'{"policies":[' + b"[]," * (7 * MEBIBYTE // 3) + b"[]]}", 1),
    "20 MB of short strings": lambda: gzip.compress(
        BEGIN + POLICY.replace(b'"a"', b'"a",' * (4 * MEBIBYTE) + b'"a"') + b"]}", 1
    ),
    "7 MB of escapes": lambda: gzip.compress(b'{"policies":"' + b'\\"' * (7 * MEBIBYTE // 2) + b'"}', 1),
    "50,000 policies": lambda: gzip.compress(BEGIN + (POLICY + b",") * 50_000 + POLICY + b"]}", 1),
    "240,000 repeated keys": lambda: gzip.compress(b"{" + b'"a":1,' * 240_000 + b'"a":2}', 1),
}
TOP = b"From: a@example.com\nContent-Type: multipart/mixed; boundary=a\n\n"
MAILS = {
    "24 MB of boundaries on one line": lambda: TOP + b"--a" * (8 * MEBIBYTE),
    "24 MB of boundaries on one line of blanks": lambda: (
        TOP + b"\n--a" + b" " * (12 * MEBIBYTE) + b"--a " * (3 * MEBIBYTE)
    ),
    "24 MB of lines that begin as a boundary": lambda: TOP + b"--ab\n" * (24 * MEBIBYTE // 5),
    "24 MB of parts": lambda: TOP + b"--a\n" * (6 * MEBIBYTE),
    "24 MB of parts that hold parts": lambda: TOP + b"--a\nContent-Type: multipart/mixed\n\n\n" * (24 * MEBIBYTE // 37),
    "24 MB without the boundary": lambda: (
        TOP.replace(b"=a", b"=b") + (b"--" + b" " * 900 + b"x\n") * (24 * MEBIBYTE // 904)
    ),
    "24 MB of dashes": lambda: TOP.replace(b"=a", b"=b") + b"\n--" * (8 * MEBIBYTE),
}
TAKE_APART = """
import resource, sys, time
from pathlib import Path
from stsguard.core.errors import ReportInvalid
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.unpack import unpack
data = Path(sys.argv[1]).read_bytes()
size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + int(sys.argv[2]),) * 2)
started = time.process_time()
try:
    print(len(parse_received(unpack(data).documents[0]).policies), "policies")
except ReportInvalid as exc:
    print("refused:", exc)
print(time.process_time() - started)
"""


WALK = """
import sys, time
from pathlib import Path
from stsguard.core.received_mail import MAX_REPORTS, find_reports
data = Path(sys.argv[1]).read_bytes()
started = time.process_time()
found = find_reports(data)
assert len(found.parts) <= MAX_REPORTS
print(time.process_time() - started)
"""


@pytest.mark.parametrize("name", MAILS)
def test_the_parts_of_a_mail_are_found_in_a_time_linear_in_its_length(name: str, tmp_path: Path) -> None:
    file = tmp_path / "mail"
    file.write_bytes(MAILS[name]())
    done = subprocess.run([sys.executable, "-c", WALK, file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1


@pytest.mark.parametrize("name", BOMBS)
def test_bomb(name: str, tmp_path: Path) -> None:
    file = tmp_path / "bomb"
    file.write_bytes(BOMBS[name]())
    done = subprocess.run(
        [sys.executable, "-c", TAKE_APART, file, str(100 * MEBIBYTE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    outcome, seconds = done.stdout.splitlines()
    assert outcome.startswith("refused: ") or outcome == "10000 policies"
    assert float(seconds) < 1
