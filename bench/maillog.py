"""Lines of a mail log a second, beside a loop that reads the same file and does nothing."""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from stsguard.core.postfix_log import LogReader

START = datetime(2026, 5, 4, tzinfo=UTC)
CIPHER = (
    "TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits) key-exchange X25519 "
    "server-signature RSA-PSS (2048 bits) server-digest SHA256"
)
SEED = 8460
BATCH_BYTES = 65536


def generate(path: Path, lines: int) -> None:
    """A log as of a site that takes in and sends mail and serves mailboxes, `lines` long and always the same."""
    draw = random.Random(SEED)
    at = START
    written = 0
    with path.open("w", encoding="utf-8") as file:
        while written < lines:
            at += timedelta(milliseconds=draw.randrange(400))
            stamp = at.strftime("%b %e %H:%M:%S") + " relay1 "
            some = draw.choice((_inbound, _inbound, _outbound, _mailbox))(draw)[: lines - written]
            written += len(some)
            file.writelines(f"{stamp}{text}\n" for text in some)


def _queue_id(draw: random.Random) -> str:
    return f"{draw.getrandbits(44):011X}"


def _outbound(draw: random.Random) -> list[str]:
    """One message that leaves; one in twenty without TLS, one in fifty with a failure."""
    queue_id, pid = _queue_id(draw), draw.randrange(100, 300)
    number = int(draw.paretovariate(0.7)) % 50_000  # few destinations get most of the mail, many a little
    mx = f"mx{number % 3}.d{number}.example[192.0.2.{number % 254 + 1}]:25"
    chance = draw.randrange(100)
    smtp = f"postfix/smtp[{pid}]:"
    lines = [
        f"postfix/submission/smtpd[{pid + 1000}]: connect from client{number}.example[198.51.100.7]",
        (
            f"postfix/submission/smtpd[{pid + 1000}]: {queue_id}: client=client{number}.example[198.51.100.7], "
            f"sasl_method=PLAIN, sasl_username=user{number}"
        ),
        f"postfix/cleanup[{pid + 2000}]: {queue_id}: message-id=<{draw.getrandbits(64):x}@client{number}.example>",
        f"opendkim[731]: {queue_id}: DKIM-Signature field added (s=key1, d=example.com)",
        f"postfix/qmgr[812]: {queue_id}: from=<user{number}@example.com>, size={number}, nrcpt=1 (queue active)",
        (
            f"postfix/submission/smtpd[{pid + 1000}]: disconnect from client{number}.example[198.51.100.7] ehlo=2 "
            "starttls=1 auth=1 mail=1 rcpt=1 data=1 quit=1 commands=8"
        ),
    ]
    status = "dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 4cbdb56t4MzPjfw)"
    if chance < 2:
        lines.append(f"{smtp} server certificate verification failed for {mx}: num=62:hostname mismatch")
        status = "dsn=4.7.5, status=deferred (Server certificate not verified)"
    if chance < 95:
        lines.append(f"{smtp} Untrusted TLS connection established to {mx}: {CIPHER}")
    delays = f"delay=0.{number % 99}, delays=0.01/0/0.{number % 97}/0.05"
    lines.append(f"{smtp} {queue_id}: to=<user@d{number}.example>, relay={mx}, {delays}, {status}")
    lines.append(f"postfix/qmgr[812]: {queue_id}: removed")
    return lines


def _inbound(draw: random.Random) -> list[str]:
    """One message that arrives, with TLS lines that are not the sending side's."""
    queue_id, pid, number = _queue_id(draw), draw.randrange(300, 500), draw.randrange(5000)
    client = f"out{number}.example[203.0.113.{number % 254 + 1}]"
    return [
        f"postfix/postscreen[640]: CONNECT from [203.0.113.{number % 254 + 1}]:{number + 30000} to [192.0.2.1]:25",
        f"postfix/smtpd[{pid}]: connect from {client}",
        f"postfix/smtpd[{pid}]: Anonymous TLS connection established from {client}: {CIPHER}",
        f"postfix/smtpd[{pid}]: {queue_id}: client={client}",
        f"postfix/cleanup[{pid + 2000}]: {queue_id}: message-id=<{draw.getrandbits(64):x}@out{number}.example>",
        (
            f"rspamd[902]: <{draw.getrandbits(24):06x}>; task; rspamd_task_write_log: "
            f"id: <{draw.getrandbits(64):x}@x>, qid: <{queue_id}>, ip: 203.0.113.9, "
            f"(default: F (no action): [0.{number}/15.00] [R_SPF_ALLOW(-0.20)])"
        ),
        f"postfix/qmgr[812]: {queue_id}: from=<user@out{number}.example>, size={number}, nrcpt=1 (queue active)",
        (
            f"postfix/lmtp[{pid + 100}]: {queue_id}: to=<user@example.com>, relay=relay1[private/dovecot-lmtp], "
            "delay=0.1, delays=0.05/0/0/0.05, dsn=2.0.0, status=sent (250 2.0.0 <user@example.com> Saved)"
        ),
        f"postfix/qmgr[812]: {queue_id}: removed",
        f"postfix/smtpd[{pid}]: disconnect from {client} ehlo=2 starttls=1 mail=1 rcpt=1 data=1 quit=1 commands=7",
    ]


def _mailbox(draw: random.Random) -> list[str]:
    """A mailbox that is looked into."""
    number = draw.randrange(5000)
    return [
        (
            f"dovecot: imap-login: Login: user=<user{number}@example.com>, method=PLAIN, rip=198.51.100.9, "
            f"lip=192.0.2.1, mpid={number}, TLS, session=<{draw.getrandbits(48):x}>"
        ),
        (
            f"dovecot: imap(user{number}@example.com)<{number}><{draw.getrandbits(48):x}>: Disconnected: "
            "Logged out in=71 out=913 deleted=0 expunged=0 trashed=0 hdr_count=0 hdr_bytes=0 body_count=0 body_bytes=0"
        ),
    ]


def _bare(path: Path) -> int:
    with path.open(encoding="utf-8", errors="replace") as file:
        for _ in file:
            pass
    return 0


def _read(path: Path) -> int:
    reader = LogReader("mta", logs_tls=True)
    now = START + timedelta(days=30)
    sessions = 0
    with path.open(encoding="utf-8", errors="replace") as file:
        while lines := file.readlines(BATCH_BYTES):  # as the follower hands them over
            sessions += len(reader.feed_all(lines, now))
    return sessions


def _seconds(run: Callable[[Path], int], path: Path) -> tuple[float, int]:
    started = time.process_time()  # both are one thread that never waits
    found = run(path)
    return time.process_time() - started, found


def main(*, smoke: bool) -> None:
    """Print the table."""
    lines, repeats = (20_000, 1) if smoke else (1_000_000, 5)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "mail.log"
        generate(path, lines)
        _bare(path)  # into the page cache
        pairs = [(_seconds(_bare, path), _seconds(_read, path)) for _ in range(repeats)]
        size = path.stat().st_size
    sessions = pairs[0][1][1]
    assert sessions > 0
    ratio = statistics.median(bare / ours for (bare, _), (ours, _) in pairs)
    print(f"{lines} lines, {size} bytes, {sessions} sessions, median of {repeats} (python -m bench maillog)")
    for label, index in (("for line in file", 0), ("LogReader.feed_all", 1)):
        rate = lines / statistics.median(pair[index][0] for pair in pairs)
        print(f"{label}: {rate:,.0f} lines/s of CPU time")
    print(f"ratio: {ratio:.2f} of the bare loop (at least 0.1 is wanted)")
