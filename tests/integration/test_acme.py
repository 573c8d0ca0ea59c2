"""Certificates from a real CA (pebble), by a policy host that answers its challenges (RFC 8555, RFC 8737)."""

import asyncio
import json
import stat
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from stsguard.adapters.acme_client.account import account_file, load_account
from stsguard.core.certificate_schedule import read_times
from stsguard.core.errors import CertificateFailed, CertificateFault
from stsguard.core.hosted import AcmeChallenge
from stsguard.discovery.health import PartState
from stsguard.names import Domain
from tests.integration.acme_hosting import HOST, AcmeSite, acme_site
from tests.lab.ca import ThrowAwayCA

ELSEWHERE = Domain("mta-sts.elsewhere.test")


def issued(site: AcmeSite) -> bool:
    state = site.store.states.get(HOST)
    return state is not None and state.not_after is not None and state.failures == 0


@pytest.mark.parametrize("challenge", ["http-01", "tls-alpn-01"])
async def test_a_new_host_gets_a_certificate_that_senders_take(challenge: str, tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.pebble.running(), site.keeping(challenge) as keeper:
        await site.until(lambda: issued(site))
        shown = await site.certificate(await site.pebble.root())
        assert shown["subjectAltName"] == (("DNS", HOST),)
        assert keeper.health().state is PartState.OK
        saved = site.directory / "acme" / f"{HOST}.pem"
        assert stat.S_IMODE(saved.stat().st_mode) == 0o600
        key = x509.load_pem_x509_certificate(saved.read_bytes()).public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert site.store.challenges == {}
        assert site.store.states[HOST].renew_at == read_times(saved.read_bytes()).renew_at


async def test_a_name_that_leads_elsewhere_is_never_ordered(tmp_path: Path) -> None:
    async with acme_site(tmp_path, f"{ELSEWHERE}. 60 IN A 127.0.0.2") as site, site.pebble.running():
        site.hosts = {ELSEWHERE, Domain("mta-sts.nowhere.test")}
        async with site.keeping():
            await site.until(
                lambda: len([state for state in site.store.history if "no end" not in state.last_error]) == 2
            )
        assert "does not lead here: 127.0.0.2 port" in site.store.states[ELSEWHERE].last_error
        assert "has no address yet" in site.store.states[Domain("mta-sts.nowhere.test")].last_error
        assert load_account(site.directory, site.pebble.directory_url) is None


async def test_a_wrong_key_authorisation_is_refused_by_the_ca(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.pebble.running():

        async def present(challenge: AcmeChallenge) -> None:
            await site.store.save_challenge(replace(challenge, content=challenge.content[:-1] + "_"))

        for kind in ("http-01", "tls-alpn-01"):
            with pytest.raises(CertificateFailed, match="did not get the answer") as failed:
                await site.authority().order(HOST, kind, present)
            assert failed.value.fault is CertificateFault.HOST
        with pytest.raises(CertificateFailed, match="does not offer dns-9"):
            await site.authority().order(HOST, "dns-9", present)


async def test_refused_nonces_are_taken_in_stride(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.pebble.running(nonce_reject=30):
        key, chain = await site.authority().order(HOST, "http-01", site.store.save_challenge)
        assert key.startswith(b"-----BEGIN PRIVATE KEY-----")
        assert chain.count(b"-----BEGIN CERTIFICATE-----") > 1


async def test_the_account_is_registered_once_and_kept(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site:
        async with site.pebble.running():
            await site.authority().order(HOST, "http-01", site.store.save_challenge)
            first = load_account(site.directory, site.pebble.directory_url)
            assert first is not None
            assert first.uri is not None
            path = account_file(site.directory, site.pebble.directory_url)
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            await site.authority().order(HOST, "http-01", site.store.save_challenge)
            assert load_account(site.directory, site.pebble.directory_url) == first
            # Killed before the URI was written: the same key is given the same account.
            path.write_text(json.dumps({**json.loads(path.read_text()), "uri": None}))
            await site.authority().order(HOST, "http-01", site.store.save_challenge)
            assert load_account(site.directory, site.pebble.directory_url) == first
        async with site.pebble.running():  # which has forgotten everything
            await site.authority().order(HOST, "http-01", site.store.save_challenge)
            again = load_account(site.directory, site.pebble.directory_url)
            assert again is not None
            assert again.key == first.key
        path.write_text("{}")
        async with site.pebble.running():
            with pytest.raises(CertificateFailed, match="account can't be read; restore it"):
                await site.authority().order(HOST, "http-01", site.store.save_challenge)


async def test_a_server_whose_certificate_is_unknown_is_told_nothing(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.pebble.running():
        site.pebble.ca_file = ThrowAwayCA(tmp_path / "other").ca_file
        with pytest.raises(CertificateFailed, match="see acme_ca_file") as failed:
            await site.authority().order(HOST, "http-01", site.store.save_challenge)
        assert failed.value.fault is CertificateFault.CA


async def test_a_ca_that_is_down_is_found_again(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.keeping() as keeper:
        await site.until(lambda: "can't be reached" in keeper.health().detail)
        assert keeper.health().state is PartState.LIMITED
        async with site.pebble.running():
            site.clock.ahead += 86_400
            await site.until(lambda: issued(site))
        assert keeper.health().state is PartState.OK


async def test_renewed_under_load_without_one_failed_handshake(tmp_path: Path) -> None:
    """By jumps of the clock forward, each of which makes the certificate due, and back."""
    async with acme_site(tmp_path) as site, site.pebble.running(), site.keeping():
        await site.until(lambda: issued(site))
        root, over = await site.pebble.root(), asyncio.Event()
        serials: list[object] = []

        async def load() -> None:
            while not over.is_set():
                serials.append((await site.certificate(root))["serialNumber"])

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(load())
            for number in (2, 3):
                site.clock.ahead += 86_400  # nothing is ordered twice a day
                site.clock.shift = timedelta(days=365 * 4)  # those of pebble last five years
                await site.until(lambda number=number: len(set(serials)) >= number)  # type: ignore[misc]
                site.clock.shift = timedelta()
            over.set()
        assert len(serials) > 50


async def test_what_was_put_there_by_hand_is_left_alone(tmp_path: Path) -> None:
    async with acme_site(tmp_path) as site, site.pebble.running():
        site.directory.mkdir()
        (site.directory / f"{HOST}.pem").write_text("the operator's")
        async with site.keeping() as keeper:
            await site.until(lambda: "0 certificates" in keeper.health().detail)
            await asyncio.sleep(0)
        assert site.store.history == []
