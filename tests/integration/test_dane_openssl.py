"""Our reading of DANE held against OpenSSL's, which is Postfix's: the same chains, the same records, one outcome.

`openssl s_client` does what Postfix does: names are not checked for DANE-EE(3), and no root of the system counts.
"""

import asyncio
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from stsguard.core.dane import TlsaRecord, usable_tlsa
from stsguard.core.danechain import match_chain
from stsguard.names import Domain
from tests.unit.chains import NOW, Made, make, tlsa

MX = Domain("mx.example.com")
# Dates are counted from a day in the tests' calendar; OpenSSL looks at the clock of the machine.
TODAY = (datetime.now(UTC) - NOW).total_seconds() / 86400
VALID, EXPIRED = (TODAY - 30, TODAY + 30), (TODAY - 30, TODAY - 10)


def certificate(name: str, **fields: object) -> Made:
    return make(name, **{"days": VALID, **fields})  # type: ignore[arg-type]  # the fields of make()


ROOT = certificate("root", ca=True)
INTERMEDIATE = certificate("intermediate", issuer=ROOT, ca=True)
LEAF = certificate("leaf", issuer=INTERMEDIATE, names=[MX])
OLD_ROOT = certificate("old root", ca=True, days=EXPIRED)
OLD_CA = certificate("old", issuer=ROOT, ca=True, days=EXPIRED)
SHORT = certificate("short", ca=True, path_length=0)
BETWEEN = certificate("between", issuer=SHORT, ca=True)
NO_CA = certificate("no ca", issuer=ROOT)
ALONE = certificate("alone", names=[MX])
NARROW = certificate("narrow", ca=True, extensions=[(x509.NameConstraints([x509.DNSName("example.net")], None), True)])
WIDE = certificate("wide", ca=True, extensions=[(x509.NameConstraints([x509.DNSName("example.com")], None), True)])
CROSS_KEY = ec.generate_private_key(ec.SECP256R1())
CROSS = certificate("cross", key=CROSS_KEY, issuer=ROOT, ca=True)


def below(issuer: Made, *names: str, **fields: object) -> Made:
    return certificate("leaf", issuer=issuer, names=names or (MX,), **fields)


def usage(one: x509.ObjectIdentifier) -> list[tuple[x509.ExtensionType, bool]]:
    return [(x509.ExtendedKeyUsage([one]), False)]


OLD_LEAF = below(ROOT, "wrong.example", days=EXPIRED)
CASES: dict[str, tuple[list[Made], list[TlsaRecord]]] = {
    "EE, self-signed": ([ALONE], [tlsa(3, 1, 1, ALONE)]),
    "EE, full": ([LEAF], [tlsa(3, 0, 0, LEAF)]),
    "EE, expired, wrong name": ([OLD_LEAF], [tlsa(3, 1, 1, OLD_LEAF)]),
    "EE, another key": ([LEAF], [tlsa(3, 1, 1, ALONE)]),
    "EE, weaker digest beside a stronger one": ([LEAF], [tlsa(3, 1, 1, LEAF), tlsa(3, 1, 2, ALONE)]),
    "EE, full beside a digest": ([LEAF], [tlsa(3, 1, 0, LEAF), tlsa(3, 1, 2, ALONE)]),
    "TA, root": ([LEAF, INTERMEDIATE, ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, root's key": ([LEAF, INTERMEDIATE, ROOT], [tlsa(2, 1, 2, ROOT)]),
    "TA, intermediate": ([LEAF, INTERMEDIATE], [tlsa(2, 0, 1, INTERMEDIATE)]),
    "TA, not presented": ([LEAF, INTERMEDIATE], [tlsa(2, 0, 1, ROOT)]),
    "TA, full in DNS": ([LEAF, INTERMEDIATE], [tlsa(2, 0, 0, ROOT)]),
    "TA, bare key in DNS": ([LEAF, INTERMEDIATE], [tlsa(2, 1, 0, ROOT)]),
    "TA, another bare key": ([LEAF, INTERMEDIATE], [tlsa(2, 1, 0, ALONE)]),
    "TA, any order": ([LEAF, ROOT, ALONE, INTERMEDIATE], [tlsa(2, 0, 1, ROOT)]),
    "TA, one between missing": ([LEAF, ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, presented but nobody's issuer": ([LEAF, INTERMEDIATE, SHORT], [tlsa(2, 0, 1, SHORT)]),
    "TA, the leaf itself": ([ALONE], [tlsa(2, 0, 1, ALONE)]),
    "TA, expired leaf": ([below(ROOT, days=EXPIRED), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, expired between": ([below(OLD_CA), OLD_CA, ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, expired intermediate as anchor": ([below(OLD_CA), OLD_CA, ROOT], [tlsa(2, 0, 1, OLD_CA)]),
    "TA, expired root as anchor": ([below(OLD_ROOT), OLD_ROOT], [tlsa(2, 0, 1, OLD_ROOT)]),
    "TA, wrong name": ([below(ROOT, "mx2.example.com"), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, wildcard": ([below(ROOT, "*.example.com"), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, wildcard of a top-level domain": ([below(ROOT, "*.com"), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, CN and no SAN": ([certificate(MX, issuer=ROOT), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, CN and another SAN": ([certificate(MX, issuer=ROOT, names=["x.example"]), ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, the issuer is no CA": ([below(NO_CA), NO_CA, ROOT], [tlsa(2, 0, 1, ROOT)]),
    "TA, path length": ([below(SHORT), SHORT], [tlsa(2, 0, 1, SHORT)]),
    "TA, path length exceeded": ([below(BETWEEN), BETWEEN, SHORT], [tlsa(2, 0, 1, SHORT)]),
    "TA, names permitted": ([below(WIDE), WIDE], [tlsa(2, 0, 1, WIDE)]),
    "TA, names not permitted": ([below(NARROW), NARROW], [tlsa(2, 0, 1, NARROW)]),
    "TA, for clients": (
        [below(ROOT, extensions=usage(ExtendedKeyUsageOID.CLIENT_AUTH)), ROOT],
        [tlsa(2, 0, 1, ROOT)],
    ),
    "TA, for anything": (
        [below(ROOT, extensions=usage(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)), ROOT],
        [tlsa(2, 0, 1, ROOT)],
    ),
    "TA, cross-signed": ([below(CROSS), CROSS, ROOT], [tlsa(2, 1, 1, certificate("cross", key=CROSS_KEY))]),
    "TA fails, EE matches": ([LEAF], [tlsa(2, 0, 1, ROOT), tlsa(3, 1, 1, LEAF)]),
}


@pytest.mark.parametrize("case", CASES)
async def test_openssl_comes_to_the_same_end(case: str, tmp_path: Path) -> None:
    chain, records = CASES[case]
    ours = match_chain(usable_tlsa(records), [made.der for made in chain], [MX], datetime.now(UTC))
    assert await openssl_accepts(chain, records, tmp_path) is ours.authenticated


async def openssl_accepts(chain: list[Made], records: list[TlsaRecord], directory: Path) -> bool:
    chain_file, key_file = directory / "chain.pem", directory / "key.pem"
    chain_file.write_bytes(b"".join(made.certificate.public_bytes(Encoding.PEM) for made in chain))
    key_file.write_bytes(chain[0].key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain_file, key_file)

    def accepted(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accepted, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        arguments = ["-connect", f"127.0.0.1:{port}", "-dane_tlsa_domain", MX, "-dane_ee_no_namechecks"]
        for record in records:
            rdata = f"{record.usage} {record.selector} {record.matching_type} {record.data.hex()}"
            arguments += ["-dane_tlsa_rrdata", rdata]
        process = await asyncio.create_subprocess_exec(
            "openssl",
            "s_client",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(60):
            output, _ = await process.communicate()
    assert b"Verif" in output, output
    return b"Verification: OK" in output
