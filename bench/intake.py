"""Received reports parsed a second, beside parsedmarc on the same files: JSON, gzip, and whole mails; then the whole
intake of many.

The files are made here and always the same: reports as big senders write them, of which one in eight has something to
be repaired, each time something else, so that the slow way has its share. Both run in one thread and are timed by
processor time, in turns.
"""

import base64
import gzip
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench import intake_whole
from stsguard.core.received_mail import find_reports
from stsguard.core.received_report import ReceivedReport
from stsguard.core.tlsrpt_report_received import parse_received
from stsguard.core.unpack import unpack

TOOLS = Path(__file__).parent.parent / "tests" / "tools"
SEED = 8460
WANTED = {"json": 1.0, "gzip": 2.0, "mail": 3.0, "unpacked": 0.0}  # of parsedmarc's rate; the last is only told
ODD_IN = 8


def _report(draw: random.Random, number: int) -> dict[str, object]:
    name = f"d{number}.example"
    strings = ["version: STSv1", "mode: enforce", f"mx: mx1.{name}", f"mx: *.{name}", "max_age: 604800"]
    details = [
        {
            "result-type": draw.choice(["certificate-expired", "certificate-host-mismatch", "validation-failure"]),
            "sending-mta-ip": f"192.0.2.{each}",
            "receiving-mx-hostname": f"mx{each % 3}.{name}",
            "receiving-ip": f"198.51.100.{each}",
            "failed-session-count": 1 + draw.randrange(9),
        }
        for each in range(draw.choice([0, 0, 0, 1, 2, 10]))
    ]
    policy: dict[str, object] = {
        "policy": {"policy-type": "sts", "policy-string": strings, "policy-domain": name, "mx-host": strings[2:3]},
        "summary": {
            "total-successful-session-count": draw.randrange(10_000),
            "total-failure-session-count": sum(int(str(each["failed-session-count"])) for each in details),
        },
    }
    if details:
        policy["failure-details"] = details
    policies = [policy]
    if number % 3 == 0:
        policies.append(
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": name},
                "summary": {"total-successful-session-count": 3, "total-failure-session-count": 0},
            }
        )
    report: dict[str, object] = {
        "organization-name": f"Sender {number % 7}",
        "date-range": {"start-datetime": "2026-03-01T00:00:00Z", "end-datetime": "2026-03-01T23:59:59Z"},
        "contact-info": "tls@sender.example",
        "report-id": f"2026-03-01T00:00:00Z_{name}",
        "policies": policies,
    }
    if number % ODD_IN == 0:
        _spoil(report, policy, number // ODD_IN)
    return report


def _spoil(report: dict[str, object], policy: dict[str, object], way: int) -> None:
    """What senders do that parsedmarc reads as well."""
    applied = policy["policy"]
    assert isinstance(applied, dict)
    match way % 4:
        case 0:
            report["contact-info"] = None
        case 1:
            applied["mx-host"] = applied["mx-host"][0]
        case 2:
            applied["policy-string"] = []
            applied["x-unknown"] = 1
        case _:
            policy["failure-details"] = []
            report["organization-name"] = ""


def _mail(packed: bytes, number: int) -> bytes:
    traces = "".join(
        f"Received: from mail{hop}.example.com (mail{hop}.example.com [192.0.2.{hop}])\r\n"
        f"\tby mx.example.com (Postfix) with ESMTPS id {number:011X}\r\n"
        f"\tfor <tls@example.com>; Mon, 02 Mar 2026 03:10:0{hop} +0000 (UTC)\r\n"
        for hop in range(4)
    )
    signature = "\r\n\t".join([base64.b64encode(bytes([number % 256] * 45)).decode()] * 6)
    name = f"sender.example!d{number}.example!1772323200!1772409599!001.json.gz"
    return (
        f"{traces}DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=k;\r\n\tb={signature}\r\n"
        f"MIME-Version: 1.0\r\nDate: Mon, 02 Mar 2026 03:10:06 -0700\r\nTLS-Report-Domain: d{number}.example\r\n"
        f"TLS-Report-Submitter: sender.example\r\nMessage-ID: <{number}@sender.example>\r\n"
        f"Subject: Report Domain: d{number}.example Submitter: sender.example Report-ID: <{number}@sender.example>\r\n"
        "From: noreply@sender.example\r\nTo: tls@example.com\r\n"
        'Content-Type: multipart/report; boundary="b1"; report-type=tlsrpt\r\n\r\n'
        '--b1\r\nContent-Type: text/plain; charset="UTF-8"\r\n\r\nThis is an aggregate TLS report\r\n\r\n'
        f'--b1\r\nContent-Type: application/tlsrpt+gzip;\r\n\tname="{name}"\r\n'
        f'Content-Disposition: attachment;\r\n\tfilename="{name}"\r\nContent-Transfer-Encoding: base64\r\n\r\n'
    ).encode() + base64.encodebytes(packed).replace(b"\n", b"\r\n") + b"--b1--\r\n"  # fmt: skip


def generate(number: int, first: int = 0) -> dict[str, list[bytes]]:
    """The same `number` reports, counted from `first` on: as JSON, in gzip (twice: see parsedmarc_time.py), by mail."""
    draw = random.Random(SEED + first)
    numbers = range(first, first + number)
    plain = [json.dumps(_report(draw, each), separators=(",", ":")).encode() for each in numbers]
    packed = [gzip.compress(each, mtime=0) for each in plain]
    mails = [_mail(each, at) for at, each in enumerate(packed, first)]
    return {"json": plain, "gzip": packed, "mail": mails, "unpacked": packed}


def signable(mail: bytes) -> bytes:
    """Such a mail without the signature that is none."""
    before, _, rest = mail.partition(b"DKIM-Signature:")
    return before + rest.partition(b"\r\nMIME-Version")[1].lstrip(b"\r\n") + rest.partition(b"\r\nMIME-Version")[2]


def _unpacked(octets: bytes) -> ReceivedReport:
    return parse_received(unpack(octets).documents[0])


def _from_mail(octets: bytes) -> ReceivedReport:
    return _unpacked(find_reports(octets).parts[0].content)


PARSERS: dict[str, Callable[[bytes], ReceivedReport]] = {
    "json": parse_received,
    "gzip": _unpacked,
    "mail": _from_mail,
    "unpacked": _unpacked,
}


@dataclass(frozen=True, slots=True)
class Pair:
    """Seconds of processor time for the same files."""

    ours: float
    theirs: float


def _pair(kind: str, files: list[bytes], peer: subprocess.Popen[str]) -> Pair:
    parse = PARSERS[kind]
    started = time.process_time()
    found = [parse(octets) for octets in files]
    ours = time.process_time() - started
    assert all(report.policies for report in found)
    return Pair(ours, _theirs(kind, files, peer))


def _theirs(kind: str, files: list[bytes], peer: subprocess.Popen[str]) -> float:
    """Seconds of processor time."""
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdin.write(f"{kind}\n")
    peer.stdin.flush()
    theirs, number = peer.stdout.readline().split()
    assert int(number) == len(files)
    return float(theirs)


def _their_wall_seconds(files: list[bytes], peer: subprocess.Popen[str]) -> float:
    """How long parsedmarc takes for one mail now, by the clock on the wall, in its one process."""
    started = time.monotonic()
    _theirs("mail", files, peer)
    return (time.monotonic() - started) / len(files)


def main(*, smoke: bool) -> None:
    """Print the table."""
    number, repeats, whole = (40, 1, 300) if smoke else (1000, 7, 100_000)
    files = generate(number)
    python = subprocess.run(
        ["sh", TOOLS / "install-parsedmarc.sh"], check=True, text=True, stdout=subprocess.PIPE
    ).stdout.strip()
    with subprocess.Popen(
        [python, TOOLS / "parsedmarc_time.py"],
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if smoke else sys.stderr,
    ) as peer:
        assert peer.stdin is not None
        peer.stdin.write(json.dumps({kind: [base64.b64encode(f).decode() for f in fs] for kind, fs in files.items()}))
        peer.stdin.write("\n")
        pairs = [{kind: _pair(kind, files[kind], peer) for kind in files} for _ in range(repeats + 1)][1:]
        line = intake_whole.run(whole, lambda: _their_wall_seconds(files["mail"], peer))
        peer.stdin.close()
    print(f"{number} received reports of each kind, median of {repeats} in turns (python -m bench intake)")
    for kind, wanted in WANTED.items():
        ours, theirs = (statistics.median(getattr(each[kind], who) for each in pairs) for who in ("ours", "theirs"))
        ratio = statistics.median(each[kind].theirs / each[kind].ours for each in pairs)
        told = f"at least {wanted} is wanted" if wanted else "gzip beside its inner steps alone; nothing is asked for"
        print(
            f"{kind}: {number / ours:,.0f}/s, parsedmarc {number / theirs:,.0f}/s: {ratio:.1f} times its rate ({told})"
        )
    print(line)
