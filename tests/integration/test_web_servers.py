"""The samples for web servers in front, run for real, and the policy as a browser shows it."""

import asyncio
import base64
import html
import os
import re
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from tests.integration.lookup_client import until
from tests.integration.policy_hosting import PATH, PolicyHostAt, parse, policy_host, put_certificate, request
from tests.integration.test_policy_host import HOST, A, challenge, store

CONF = Path(__file__).parents[2] / "conf"
SPARE = "mta-sts.d.example"
CHROMIUM = (
    *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--dump-dom"),
)


def need(program: str) -> None:
    if shutil.which(program) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{program} is not installed")


def unused_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for sock in (one, other):
            sock.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def write_nginx(directory: Path, at: PolicyHostAt, https: int, http: int) -> Path:
    """The sample, with other ports and paths, in the smallest nginx.conf that there is."""
    put_certificate(at.ca, directory / "acme", HOST, SPARE)
    for host in (HOST, SPARE):  # as ACME leaves them: key and chain in one file
        file = directory / "acme" / f"{host}.pem"
        file.write_bytes(file.read_bytes() + (directory / "acme" / f"{host}.key").read_bytes())
    sample = (CONF / "nginx.conf").read_text()
    sample = re.sub(r"^ *listen \[::\].*\n", "", sample, flags=re.MULTILINE)
    for old, new in (
        ("listen 443 ", f"listen 127.0.0.1:{https} "),
        ("listen 80;", f"listen 127.0.0.1:{http};"),
        ("/run/stsguard-inbound/policy.sock", str(at.unix)),
        ("/var/lib/stsguard/certificates/acme/", f"{directory}/acme/"),
    ):
        assert old in sample
        sample = sample.replace(old, new)
    paths = "".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = "user root;" if os.geteuid() == 0 else ""
    file = directory / "nginx.conf"
    file.write_text(
        f"{user} daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{sample}}}\n"
    )
    return file


@asynccontextmanager
async def nginx(directory: Path, at: PolicyHostAt) -> AsyncIterator[tuple[int, int]]:
    need("nginx")
    https, http = unused_ports()
    file = write_nginx(directory, at, https, http)
    process = await asyncio.create_subprocess_exec("nginx", "-e", directory / "error.log", "-c", str(file))

    def listens() -> bool:
        assert process.returncode is None, (directory / "error.log").read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", https)) == 0

    try:
        await until(listens)
        yield https, http
    finally:
        process.terminate()
        await process.wait()


async def ask(port: int, octets: bytes, context: ssl.SSLContext | None = None, sni: str | None = None) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=sni)
    writer.write(octets)
    found = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    return found


async def test_nginx_does_the_tls_and_stsguard_the_policies(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at, nginx(tmp_path, at) as (https, http):
        found = await ask(https, request(PATH, "MTA-STS.A.example:443", "User-Agent: proxied"), at.context(), HOST)
        status, fields, body = parse(found)
        assert (status, fields["content-type"], body) == (200, "text/plain", A)
        assert fields["cache-control"] == "public, max-age=60"
        assert not {"location", "set-cookie"} & fields.keys()
        known = request(PATH, HOST, f"If-None-Match: {fields['etag']}")
        assert parse(await ask(https, known, at.context(), HOST))[0] == 304
        assert parse(await ask(https, request(PATH, HOST, method="HEAD"), at.context(), HOST))[::2] == (200, b"")
        for path, host in (("/", HOST), (PATH, SPARE), ("/.well-known/acme-challenge/unknown", HOST)):
            status, fields, _ = parse(await ask(https, request(path, host), at.context(), host))
            assert (status, fields["content-type"]) == (404, "text/plain")
        await at.fetches.flush()
        counted = {(row.user_agent, row.network) for row in at.store.fetches}
        assert ("proxied", "127.0.0.0/24") in counted
        at.store.challenges.append(challenge("http-01", "token"))
        assert parse(await ask(http, request("/.well-known/acme-challenge/token")))[2] == b"token.thumbprint"
        assert parse(await ask(http, request()))[0] == 404


async def test_a_forged_x_forwarded_for_does_not_pass_nginx(tmp_path: Path) -> None:
    async with policy_host(tmp_path, store()) as at, nginx(tmp_path, at) as (https, _):
        await ask(https, request(PATH, HOST, "X-Forwarded-For: 203.0.113.9"), at.context(), HOST)
        await at.fetches.flush()
        assert [row.network for row in at.store.fetches] == ["127.0.0.0/24"]


async def test_caddy_takes_its_sample(tmp_path: Path) -> None:
    need("caddy")
    caddy = await asyncio.create_subprocess_exec(
        *("caddy", "validate", "--adapter", "caddyfile", "--config", str(CONF / "Caddyfile")),
        env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await caddy.communicate()
    assert caddy.returncode == 0, output.decode()
    assert b"Valid configuration" in output


async def test_chromium_shows_the_file(tmp_path: Path) -> None:
    need("chromium")
    async with policy_host(tmp_path, store()) as at:
        certificate = x509.load_pem_x509_certificate((tmp_path / "certificates" / f"{HOST}.pem").read_bytes())
        key = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(key)
        spki = base64.b64encode(digest.finalize()).decode()
        chromium = await asyncio.create_subprocess_exec(
            *CHROMIUM,
            f"--user-data-dir={tmp_path}/chromium",
            f"--ignore-certificate-errors-spki-list={spki}",
            f"--host-resolver-rules=MAP {HOST} 127.0.0.1",
            f"https://{HOST}:{at.port}{PATH}",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await asyncio.wait_for(chromium.communicate(), 90)
        shown = re.search(r"<pre[^>]*>(.*?)</pre>", output.decode(), re.DOTALL)
        assert shown is not None, output.decode() + errors.decode()
        assert html.unescape(shown[1]).split() == A.decode().split()
