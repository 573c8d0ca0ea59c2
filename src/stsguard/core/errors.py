"""Every error of stsguard, in one tree.

::

    StsguardError
    ├── PeerError                 what the other side published or did is wrong
    │   ├── RecordInvalid         a TXT record does not match its ABNF                RFC 8461 §3.1, RFC 8460 §3
    │   ├── PolicyInvalid         a policy file does not match its ABNF               RFC 8461 §3.2
    │   ├── PolicyFetchFailed     the policy could not be had, for a closed set of reasons   RFC 8461 §3.3
    │   ├── CertificateInvalid    a certificate can't be read                         RFC 5280 §4.1
    │   ├── ReportInvalid         a report is not what RFC 8460 §4 says                RFC 8460 §4.4
    │   ├── SignatureInvalid      a DKIM signature or its key can't be valid          RFC 6376 §6.1
    │   ├── RequestInvalid        a client of ours does not speak socketmap
    │   ├── ClientHelloInvalid    what opens a TLS connection is no ClientHello       RFC 8446 §4.1.2
    │   └── EventInvalid          what the MTA told of a TLS session can't be read
    ├── LookupFailed              a DNS answer could not be had (server failure, bogus, timeout)   RFC 7672 §2.1.1
    ├── DeliveryFailed            a report was not taken, by its endpoint or by our own MTA       RFC 8460 §5.5
    ├── UpdateFailed              a DNS update was not taken                                      RFC 2136
    ├── CertificateFailed         the CA gave no certificate                                      RFC 8555
    ├── OurFault                  we, or the machine we run on, failed
    │   ├── StoreUnavailable      the database can't be read or written
    │   ├── ListenFailed          a socket can't be opened
    │   ├── DaemonSilent          another process of stsguard does not answer
    │   ├── SpoolFailed           a received report can't be kept or read; SpoolFull where there is no room for it
    │   └── PostfixUnreadable     the Postfix on this machine can't be asked about itself
    └── OperatorError             what the operator wrote is wrong
        ├── ConfigInvalid         the configuration; names file, key, value and what is allowed
        ├── OverrideInvalid       the override file; the same
        └── TransitionRefused     a step of a hosted domain out of its order; says what is safe, and from when on

The caller of anything that raises `PeerError` or `LookupFailed` decides with the cached policy or answers TEMP;
it never answers with less because of them. `OperatorError` stops a start and is only logged on a reload.
"""

from enum import Enum, StrEnum


class ResultType(StrEnum):
    """result-type of RFC 8460 §4.3, spelled as in a report."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class FetchReason(Enum):
    """Every way in which a policy can fail to be had once its record is there (RFC 8461 §3.3).

    Each carries the result-type that a report gives for it (RFC 8460 §4.3.2.1), and whether the fault may be ours:
    those are never reported as the domain's.
    """

    DNS_FAILED = ("dns-failed", ResultType.STS_POLICY_FETCH_ERROR, True)
    NO_ADDRESS = ("no-address", ResultType.STS_POLICY_FETCH_ERROR, False)
    ADDRESS_REFUSED = ("address-refused", ResultType.STS_POLICY_FETCH_ERROR, True)
    CONNECT_FAILED = ("connect-failed", ResultType.STS_POLICY_FETCH_ERROR, True)
    CONNECTION_REFUSED = ("connection-refused", ResultType.STS_POLICY_FETCH_ERROR, False)
    TIMEOUT = ("timeout", ResultType.STS_POLICY_FETCH_ERROR, True)
    TLS_FAILED = ("tls-failed", ResultType.STS_POLICY_FETCH_ERROR, False)
    CERTIFICATE_NOT_TRUSTED = ("certificate-not-trusted", ResultType.STS_WEBPKI_INVALID, False)
    CERTIFICATE_EXPIRED = ("certificate-expired", ResultType.STS_WEBPKI_INVALID, False)
    CERTIFICATE_NOT_YET_VALID = ("certificate-not-yet-valid", ResultType.STS_WEBPKI_INVALID, True)
    CERTIFICATE_HOST_MISMATCH = ("certificate-host-mismatch", ResultType.STS_WEBPKI_INVALID, False)
    HTTP_MALFORMED = ("http-malformed", ResultType.STS_POLICY_FETCH_ERROR, False)
    HTTP_REDIRECT = ("http-redirect", ResultType.STS_POLICY_FETCH_ERROR, False)
    HTTP_STATUS = ("http-status", ResultType.STS_POLICY_FETCH_ERROR, False)
    CONNECTION_LOST = ("connection-lost", ResultType.STS_POLICY_FETCH_ERROR, False)
    MEDIA_TYPE = ("media-type", ResultType.STS_POLICY_INVALID, False)
    TOO_LARGE = ("too-large", ResultType.STS_POLICY_INVALID, False)
    POLICY_SYNTAX = ("policy-syntax", ResultType.STS_POLICY_INVALID, False)
    LOCAL = ("local", ResultType.STS_POLICY_FETCH_ERROR, True)

    def __init__(self, code: str, result_type: ResultType, maybe_ours: bool) -> None:
        self.code = code
        self.result_type = result_type
        self.maybe_ours = maybe_ours


class LookupReason(StrEnum):
    """Why a DNS answer could not be had. A denial (NODATA, NXDOMAIN) is an answer, not a failure."""

    SERVFAIL = "servfail"
    BOGUS = "bogus"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    MALFORMED = "malformed"
    CNAME_LOOP = "cname-loop"
    UNREACHABLE = "unreachable"


class StsguardError(Exception):
    """The root; `temporary` says whether trying again later can help without anyone changing anything."""

    temporary = False


class PeerError(StsguardError):
    """The other side is at fault."""


class RecordInvalid(PeerError):
    """A TXT record that does not match its ABNF. The message says where."""


class PolicyInvalid(PeerError):
    """A policy file that does not match its ABNF. The message says where; report it as sts-policy-invalid."""

    result_type = ResultType.STS_POLICY_INVALID


class PolicyFetchFailed(PeerError):
    """The policy could not be had. The caller applies the cached policy, else none (RFC 8461 §3.3)."""

    temporary = True

    def __init__(self, reason: FetchReason, detail: str) -> None:
        super().__init__(f"{reason.code}: {detail}")
        self.reason = reason
        self.detail = detail

    @property
    def result_type(self) -> ResultType:
        """The result-type that a report gives for it (RFC 8460 §4.3.2.1)."""
        return self.reason.result_type


class CertificateInvalid(PeerError):
    """A certificate that can't be read. The caller knows nothing of its names and dates; it never counts as valid."""


class ReportInvalid(PeerError):
    """A report that is not as RFC 8460 §4 has it. The message says where."""


class SignatureInvalid(PeerError):
    """A DKIM signature that is not valid, or whose key does not permit it. The mail counts as not signed by it."""


class RequestInvalid(PeerError):
    """A socketmap client sent what is no request. The caller closes that connection and no other."""


class ClientHelloInvalid(PeerError):
    """What opens a TLS connection can't be read. The caller ends the connection; nothing else is affected."""


class EventInvalid(PeerError):
    """A datagram about TLS sessions that can't be read. The caller counts it, keeps it to be shown, and goes on."""


class LookupFailed(StsguardError):
    """A DNS answer could not be had: RFC 7672 §2.1.1 treats every kind alike. The caller never downgrades on it."""

    temporary = True

    def __init__(self, reason: LookupReason, question: str, detail: str = "") -> None:
        super().__init__(f"{question}: {reason.value}" + (f" ({detail})" if detail else ""))
        self.reason = reason
        self.question = question


class DeliveryFailed(StsguardError):
    """A report was not taken. Temporary: try the same again later (RFC 8460 §5.5); else no repetition can help.

    Like a look-up's, the fault may be anyone's: the endpoint's, the local MTA's, the network's. `text` is for the
    log and `report list`: one line of bounded length, whoever wrote it.
    """

    def __init__(self, temporary: bool, text: str) -> None:
        super().__init__(text)
        self.temporary = temporary
        self.text = text


class UpdateFailed(StsguardError):
    """A DNS update was not taken. Temporary: the same may be taken later. The message names server, zone and answer."""

    def __init__(self, temporary: bool, text: str) -> None:
        super().__init__(text)
        self.temporary = temporary


class CertificateFault(Enum):
    """Whom a refused certificate concerns: the host alone, whoever asks too often, or everybody the CA serves."""

    HOST = "host"
    RATE_LIMIT = "rate-limit"
    CA = "ca"


class CertificateFailed(StsguardError):
    """The CA gave no certificate. The one in use stays; `retry_after_seconds` is what the CA asked for, None where it
    said nothing. The message says what the CA answered and what to do."""

    temporary = True

    def __init__(
        self,
        text: str,
        retry_after_seconds: float | None = None,
        fault: CertificateFault = CertificateFault.HOST,
    ) -> None:
        super().__init__(text)
        self.retry_after_seconds = retry_after_seconds
        self.fault = fault


class OurFault(StsguardError):
    """We failed, or the machine did."""

    temporary = True


class StoreUnavailable(OurFault):
    """The database can't be read or written. Look-ups go on from memory; nothing is ever moved aside. Not temporary
    where it refuses what was to be written, and not the writing."""

    def __init__(self, text: str, *, temporary: bool = True) -> None:
        super().__init__(text)
        self.temporary = temporary


class ListenFailed(OurFault):
    """A socket can't be opened. The start stops with the message."""


class SpoolFailed(OurFault):
    """The spool can't be used. Who was about to hand a report over has to be told to try again later."""


class SpoolFull(SpoolFailed):
    """There is no room for a report; not temporary where it is larger than any that is taken."""

    def __init__(self, text: str, *, temporary: bool = True) -> None:
        super().__init__(text)
        self.temporary = temporary


class DaemonSilent(OurFault):
    """Another process of stsguard does not answer. Whoever asked goes on without it."""


class PostfixUnreadable(OurFault):
    """Postfix's own commands are missing, fail, or say what no Postfix says. The message says which and why."""


class OperatorError(StsguardError):
    """The operator has to change something; the message says what."""


class ConfigInvalid(OperatorError):
    """The configuration is not usable. The message names file, key, value and what is allowed."""


class OverrideInvalid(OperatorError):
    """The override file is not usable. The message names file, entry, key, value and what is allowed."""


class TransitionRefused(OperatorError):
    """What the operator asks of a hosted domain would harm its mail now. The message says why, what is safe today, and
    when it will be safe."""
