"""The whole intake, from a Maildir into SQLite: signatures verified, reports read, stored and added up.

The mails are those of `bench.intake`, each signed with RSA of 2048 bits as the big senders do it; a nameserver on
loopback has the key. What is timed is the command, from its start to its end, beside parsedmarc, which parses mails
like these in one process, before and after, and neither verifies nor stores them. Both go by the clock on the wall, so
on a machine that others use as well, read the ratio.
"""

import asyncio
import base64
import json
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from tests.lab.nameserver import Nameserver, zone

from stsguard.core.dkim_body import body_hash
from stsguard.store.database import open_database
from stsguard.store.received_schema import received_daily

KEY_NAME = "s1._domainkey.sender.example"
SIGNED = ("from", "to", "subject", "date", "message-id", "content-type", "tls-report-domain", "tls-report-submitter")
AT_ONCE = 500
_BLANKS = re.compile(rb"[ \t\r\n]+")


def sign(mail: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """`mail`, whose header has each field once, signed relaxed/relaxed by sender.example (RFC 6376 §3.4.2, §3.7)."""
    head, _, body = mail.partition(b"\r\n\r\n")
    unfolded = re.split(rb"\r\n(?![ \t])", head)
    fields = {name.lower(): value for name, _, value in (field.partition(b":") for field in unfolded)}
    digest = base64.b64encode(body_hash(body, relaxed=True)).decode()
    tags = f"v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=s1; h={':'.join(SIGNED)}; bh={digest}; b="
    lines = [b"%s:%s\r\n" % (name.encode(), _BLANKS.sub(b" ", fields[name.encode()]).strip()) for name in SIGNED]
    octets = b"".join(lines) + b"dkim-signature:" + tags.encode()
    signature = key.sign(octets, padding.PKCS1v15(), hashes.SHA256())
    return b"DKIM-Signature: " + tags.encode() + base64.b64encode(signature) + b"\r\n" + mail


def _write(directory: Path, pem: bytes, first: int, number: int) -> None:
    """Mails `first` to `first + number` of the Maildir; each as different from the others as days and domains are."""
    from bench.intake import generate, signable

    key = load_pem_private_key(pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    for at, mail in enumerate(generate(number, first)["mail"], first):
        octets = sign(signable(mail), key).replace(b"\r\n", b"\n")
        (directory / "new" / f"{1772420000 + at}.M{at}.bench").write_bytes(octets)


@contextmanager
def _nameserver(record: str) -> Iterator[str]:
    loop, stop, ready = asyncio.new_event_loop(), asyncio.Event(), threading.Event()
    strings = " ".join(f'"{record[begin : begin + 255]}"' for begin in range(0, len(record), 255))
    server = Nameserver(zone(f"{KEY_NAME}. 300 IN TXT {strings}"))

    async def serve() -> None:
        async with server:
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    ready.wait()
    try:
        yield f"{server.address[0]}:{server.address[1]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _counted(database: Path) -> int:
    opened = open_database(f"sqlite:///{database}")
    try:
        with opened.alchemy.scanning() as connection:
            return sum(row.successes for row in connection.execute(received_daily.select()))
    finally:
        opened.close()


def run(number: int, their_seconds: Callable[[], float]) -> str:
    """A line with the figures for `number` mails; `their_seconds` measures how long parsedmarc takes to parse one."""
    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    record = f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode()}"
    with tempfile.TemporaryDirectory(prefix="stsguard-bench-") as name, _nameserver(record) as nameserver:
        directory = Path(name)
        for each in ("cur", "new", "tmp"):
            (directory / "mail" / each).mkdir(parents=True)
        with ProcessPoolExecutor() as pool:
            for start in range(0, number, AT_ONCE):
                pool.submit(_write, directory / "mail", pem, start, min(AT_ONCE, number - start))
        config = directory / "stsguard.toml"
        config.write_text(f'[dns]\nnameservers = ["{nameserver}"]\ndnssec = "no"\n', encoding="ascii")
        stsguard = Path(sys.executable).with_name("stsguard")
        command = [stsguard, "ingest", "--json", "--config", config, "--state-dir", directory, directory / "mail"]
        theirs = [their_seconds()]
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
        seconds, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        theirs.append(their_seconds())
        told = json.loads(done.stdout)
        assert (told["new"], told["not_counted"], told["items"]) == (number, 0, number), told
        assert _counted(directory / "stsguard.db") > 0
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    of_all = sum(theirs) / len(theirs) * number
    return (
        f"whole intake of {number:,} signed mails, a Maildir into SQLite: {seconds:,.1f} s, {number / seconds:,.0f}/s "
        f"({processor:,.1f} s of processor time, at most {after.ru_maxrss / 1024:,.0f} MB in a process); "
        f"parsedmarc's parsing of as many {of_all:,.1f} s: {of_all / seconds:.2f} times ours (at least 1.0 is wanted)"
    )
