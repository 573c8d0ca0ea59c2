"""Certificates of policy hosts as files: chosen by name, replaced while in use, and never lost to a broken file."""

import logging
import os
import shutil
import socket
import ssl
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from stsguard.adapters.tls_certificates import AcmeCertificates, CertificateFiles
from stsguard.names import Domain
from tests.lab.ca import IssuedCertificate, ThrowAwayCA

HOST = Domain("mta-sts.example.test")
OTHER = Domain("mta-sts.other.test")


@pytest.fixture
def ca(tmp_path: Path) -> ThrowAwayCA:
    return ThrowAwayCA(tmp_path / "ca")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "certificates"
    path.mkdir()
    return path


class Timer:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def timer() -> Timer:
    return Timer()


def by_hand(directory: Path, host: str, issued: IssuedCertificate) -> None:
    shutil.copy(issued.chain_file, directory / f"{host}.pem")
    shutil.copy(issued.key_file, directory / f"{host}.key")


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, host: str = HOST
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """A complete handshake in memory: the client's and the server's side."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server, server_hostname=host)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(3):
        for side in (theirs, ours):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
    theirs.do_handshake()
    return theirs, ours


def presented(context: ssl.SSLContext | None, ca: ThrowAwayCA, host: str = HOST) -> int:
    """The serial number of the certificate that a client that trusts `ca` is shown and takes."""
    assert context is not None
    certificate = shake_hands(context, ca.client_context(), host)[0].getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def test_each_host_has_its_own_and_another_has_none(ca: ThrowAwayCA, directory: Path) -> None:
    mine, other = ca.issue([HOST], intermediate=True), ca.issue([OTHER])
    by_hand(directory, HOST, mine)
    AcmeCertificates(directory).save(OTHER, other.key_file.read_bytes(), other.chain_file.read_bytes())
    files = CertificateFiles(directory)
    assert presented(files.context(HOST), ca) == mine.certificate.serial_number
    assert presented(files.context(OTHER), ca, OTHER) == other.certificate.serial_number
    assert files.context(Domain("mta-sts.third.test")) is None
    assert files.context(Domain("a" * 63 + ".example.test")) is None
    assert files.context(Domain(".".join(["a" * 61] * 4))) is None  # longer than a file name may be


def test_the_directory_may_appear_later(ca: ThrowAwayCA, tmp_path: Path, timer: Timer) -> None:
    files = CertificateFiles(tmp_path / "later", timer=timer)
    assert files.context(HOST) is None
    (tmp_path / "later").mkdir()
    by_hand(tmp_path / "later", HOST, ca.issue([HOST]))
    assert files.context(HOST) is None  # within the second
    timer.seconds += 1
    assert files.context(HOST) is not None


def test_modern_tls_and_nothing_below(ca: ThrowAwayCA, directory: Path) -> None:
    by_hand(directory, HOST, ca.issue([HOST]))
    context = CertificateFiles(directory).context(HOST)
    assert context is not None
    client = ca.client_context()
    client.set_alpn_protocols(["h2", "http/1.1"])
    assert shake_hands(context, client)[0].selected_alpn_protocol() == "http/1.1"
    client.set_alpn_protocols(["h2"])
    assert shake_hands(context, client)[0].selected_alpn_protocol() is None
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert shake_hands(context, client)[0].version() == "TLSv1.2"
    client.set_ciphers("AES256-GCM-SHA384")  # no forward secrecy
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.load_verify_locations(ca.ca_file)
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        shake_hands(context, old)


def test_a_change_is_seen_within_a_second_and_an_unchanged_file_is_not_read_again(
    ca: ThrowAwayCA, directory: Path, timer: Timer
) -> None:
    old, new = ca.issue([HOST]), ca.issue([HOST])
    by_hand(directory, HOST, old)
    files = CertificateFiles(directory, timer=timer)
    first = files.context(HOST)
    timer.seconds += 2
    assert files.context(HOST) is first
    by_hand(directory, HOST, new)
    assert files.context(HOST) is first
    timer.seconds += 1
    assert presented(files.context(HOST), ca) == new.certificate.serial_number


def _mismatch(directory: Path, other: IssuedCertificate) -> None:
    shutil.copy(other.chain_file, directory / f"{HOST}.pem")


def _half(directory: Path, other: IssuedCertificate) -> None:
    (directory / f"{HOST}.pem").write_bytes(other.chain_file.read_bytes()[:300])


def _no_key(directory: Path, _other: IssuedCertificate) -> None:
    (directory / f"{HOST}.key").unlink()


def _encrypted(directory: Path, _other: IssuedCertificate) -> None:
    key = directory / f"{HOST}.key"
    key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n")


@pytest.mark.parametrize("spoil", [_mismatch, _half, _no_key, _encrypted])
def test_a_broken_pair_keeps_the_one_in_use_and_is_logged_once(
    spoil: Callable[[Path, IssuedCertificate], None],
    ca: ThrowAwayCA,
    directory: Path,
    timer: Timer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    old, new = ca.issue([HOST]), ca.issue([HOST])
    by_hand(directory, HOST, old)
    files = CertificateFiles(directory, timer=timer)
    first = files.context(HOST)
    spoil(directory, new)
    for _ in range(3):
        timer.seconds += 1
        assert files.context(HOST) is first
    (logged,) = caplog.records
    assert (logged.levelno, logged.getMessage()) == (logging.ERROR, "certificate can't be used")
    by_hand(directory, HOST, new)
    timer.seconds += 1
    assert presented(files.context(HOST), ca) == new.certificate.serial_number


def test_without_any_that_can_be_used_there_is_none(ca: ThrowAwayCA, directory: Path, timer: Timer) -> None:
    issued = ca.issue([HOST])
    by_hand(directory, HOST, issued)
    _mismatch(directory, ca.issue([HOST]))
    files = CertificateFiles(directory, timer=timer)
    assert files.context(HOST) is None
    # A good one of ours stands in for it.
    AcmeCertificates(directory).save(HOST, issued.key_file.read_bytes(), issued.chain_file.read_bytes())
    timer.seconds += 1
    assert presented(files.context(HOST), ca) == issued.certificate.serial_number
    (directory / "acme" / f"{HOST}.pem").unlink()
    (directory / f"{HOST}.pem").unlink()
    timer.seconds += 1
    assert files.context(HOST) is None


def test_what_was_put_there_by_hand_wins_and_may_be_links_or_one_file(
    ca: ThrowAwayCA, directory: Path, tmp_path: Path, timer: Timer
) -> None:
    ours, theirs = ca.issue([HOST]), ca.issue([HOST])
    acme = AcmeCertificates(directory)
    acme.save(HOST, ours.key_file.read_bytes(), ours.chain_file.read_bytes())
    assert not acme.is_by_hand(HOST)
    files = CertificateFiles(directory, timer=timer)
    assert presented(files.context(HOST), ca) == ours.certificate.serial_number
    live = tmp_path / "live.pem"
    live.write_bytes(theirs.chain_file.read_bytes() + theirs.key_file.read_bytes())
    (directory / f"{HOST}.pem").symlink_to(live)
    assert acme.is_by_hand(HOST)
    timer.seconds += 1
    assert presented(files.context(HOST), ca) == theirs.certificate.serial_number


def test_only_the_contexts_used_last_are_kept(ca: ThrowAwayCA, directory: Path) -> None:
    for host in (HOST, OTHER):
        by_hand(directory, host, ca.issue([host]))
    files = CertificateFiles(directory, size=1)
    first = files.context(HOST)
    assert files.context(HOST) is first
    files.context(OTHER)
    assert files.context(HOST) is not first


def test_saved_by_one_rename_and_readable_by_us_alone(ca: ThrowAwayCA, directory: Path) -> None:
    issued = ca.issue([HOST])
    key, chain = issued.key_file.read_bytes(), issued.chain_file.read_bytes()
    acme = AcmeCertificates(directory)
    assert acme.load(HOST) is None
    left = directory / "acme" / f".new-{HOST}-killed"
    left.parent.mkdir()
    left.write_bytes(key[:10])  # what kill -9 leaves
    acme.save(HOST, key, chain)
    (saved,) = (directory / "acme").iterdir()
    assert stat.S_IMODE(saved.stat().st_mode) == 0o600
    assert saved.read_bytes() == acme.load(HOST) == key + chain
    saved.unlink()
    saved.mkdir()  # nothing can be renamed to it
    with pytest.raises(OSError, match="directory"):
        acme.save(HOST, key, chain)
    assert list((directory / "acme").iterdir()) == [saved]


def test_replaced_over_and_over_under_load_no_handshake_fails(ca: ThrowAwayCA, directory: Path) -> None:
    """Real sockets; the files are looked at before each handshake, as if each were a second apart."""
    pairs = [
        (issued.key_file.read_bytes(), issued.chain_file.read_bytes()) for issued in (ca.issue([HOST]) for _ in "ab")
    ]
    acme = AcmeCertificates(directory)
    acme.save(HOST, *pairs[0])
    seconds = iter(range(10_000))
    files = CertificateFiles(directory, timer=lambda: next(seconds))
    over = threading.Event()
    saved = 0

    def replace() -> None:
        nonlocal saved
        while not over.is_set():
            saved += 1
            acme.save(HOST, *pairs[saved % 2])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def serve(count: int) -> None:
            for _ in range(count):
                connection, _ = listener.accept()
                context = files.context(HOST)
                assert context is not None
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.sendall(b"x")

        threads = [threading.Thread(target=replace), threading.Thread(target=serve, args=(200,))]
        for thread in threads:
            thread.start()
        client, serials = ca.client_context(), set()
        try:
            for _ in range(200):
                with (
                    socket.create_connection(listener.getsockname(), timeout=10) as plain,
                    client.wrap_socket(plain, server_hostname=HOST) as tls,
                ):
                    assert tls.recv(1) == b"x"
                    serials.add(str((tls.getpeercert() or {})["serialNumber"]))
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert saved > 2
    assert len(serials) == 2
    assert os.listdir(directory / "acme") == [f"{HOST}.pem"]  # noqa: PTH208 (names are what is compared)
