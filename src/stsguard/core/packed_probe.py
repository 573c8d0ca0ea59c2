"""A probe as octets, for ten thousand hosts that are only kept: without host, address and certificate, which whoever
keeps it has beside it, the certificate once for all hosts that present it."""

import marshal
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from stsguard.core.errors import ResultType
from stsguard.core.mxcheck import CertificateFacts, MxProbe
from stsguard.names import Domain

_HEAD = Struct("<dBB")  # when, flags, result by its place in these
_RESULTS = (None, *ResultType)
_TLS, _TRUSTED, _INCONCLUSIVE, _MATCHED, _UNMATCHED = 1, 2, 4, 8, 16
_OF_MATCH = {None: 0, True: _MATCHED, False: _UNMATCHED}


def pack_probe(probe: MxProbe) -> bytes:
    """All but the three that are said above."""
    flags = (_TLS if probe.tls else 0) | (_TRUSTED if probe.trusted else 0)
    flags |= (_INCONCLUSIVE if probe.inconclusive else 0) | _OF_MATCH[probe.dane_matched]
    texts = str(probe.failure_reason_code), str(probe.tls_version)  # marshal takes no subclass
    return _HEAD.pack(probe.at.timestamp(), flags, _RESULTS.index(probe.result_type)) + marshal.dumps(texts)


def unpack_probe(
    packed: bytes, mx_hostname: Domain, address: IPv4Address | IPv6Address, certificate: CertificateFacts | None
) -> MxProbe:
    """What was packed, with what was left out."""
    at, flags, result = _HEAD.unpack_from(packed)
    failure_reason_code, tls_version = marshal.loads(packed[_HEAD.size :])  # noqa: S302 (made here, in this process)
    return MxProbe(
        mx_hostname=mx_hostname,
        address=address,
        at=datetime.fromtimestamp(at, UTC),
        tls=bool(flags & _TLS),
        trusted=bool(flags & _TRUSTED),
        result_type=_RESULTS[result],
        failure_reason_code=failure_reason_code,
        inconclusive=bool(flags & _INCONCLUSIVE),
        dane_matched=None if not flags & (_MATCHED | _UNMATCHED) else bool(flags & _MATCHED),
        certificate=certificate,
        tls_version=tls_version,
    )


def has_fault(packed: bytes) -> bool:
    """Whether the probe found one, told without unpacking."""
    return packed[_HEAD.size - 1] != 0
