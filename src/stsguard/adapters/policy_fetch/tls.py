"""What a certificate of a Policy Host has to be like, and what it means when TLS fails (RFC 8461 §3.3)."""

import ssl
from pathlib import Path

from stsguard.core.errors import FetchReason, OperatorError, PolicyFetchFailed

# X509_verify_cert_error_string(3): what OpenSSL says of the first thing wrong with a chain.
_REASONS = {
    9: FetchReason.CERTIFICATE_NOT_YET_VALID,
    10: FetchReason.CERTIFICATE_EXPIRED,
    62: FetchReason.CERTIFICATE_HOST_MISMATCH,
}

MAX_DETAIL_LENGTH = 200


def tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The context of all fetches, made once: reading the CA certificates costs a tenth of a second.

    Args:
        ca_file: the trusted CA certificates; None for the system's.

    Raises:
        OperatorError: there are no CA certificates, or they can't be read.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # CERT_REQUIRED and check_hostname
    context.minimum_version = ssl.TLSVersion.TLSv1_2  # RFC 8996, RFC 9325 §3.1.1
    # RFC 8461 §3.3: only DNS-ID identifiers count, no CN. A wildcard only as the complete left-most label, for one
    # label, is what OpenSSL does when Python asks it to match (X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS).
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        if not _has_roots(context):
            # Every host would look untrustworthy, and our own fault would be reported as theirs.
            raise OperatorError("this system has no CA certificates (install ca-certificates)")
        return context
    try:
        context.load_verify_locations(cafile=ca_file)
    except (OSError, ssl.SSLError) as exc:
        raise OperatorError(f"{ca_file}: no CA certificates can be read from it: {exc}") from exc
    return context


def tls_context_for_dates_without_verification() -> ssl.SSLContext:
    """A context that takes any certificate, for reading how long it lasts: nothing else there is to be believed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _has_roots(context: ssl.SSLContext) -> bool:
    if context.cert_store_stats()["x509_ca"] > 0:
        return True
    # A directory of hashed certificates is read on demand, so it never shows in the statistics.
    directory = ssl.get_default_verify_paths().capath
    try:
        return directory is not None and any(Path(directory).iterdir())
    except OSError:  # what we can't list OpenSSL can't read
        return False


def tls_failure_of(exc: ssl.SSLError) -> PolicyFetchFailed:
    """What an error of OpenSSL means for a fetch."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        reason = _REASONS.get(exc.verify_code, FetchReason.CERTIFICATE_NOT_TRUSTED)
        return PolicyFetchFailed(reason, exc.verify_message[:MAX_DETAIL_LENGTH])
    return PolicyFetchFailed(FetchReason.TLS_FAILED, str(exc)[:MAX_DETAIL_LENGTH])
