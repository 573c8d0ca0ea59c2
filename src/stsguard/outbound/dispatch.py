"""One report to one endpoint: by mail through the local MTA, or by HTTPS POST (RFC 8460 §5.3, §5.4)."""

from stsguard.core.errors import DeliveryFailed, ReportInvalid
from stsguard.core.report_record import ReportRecord
from stsguard.core.tlsrpt_mail import build_mail, mailto_addresses
from stsguard.core.tlsrpt_report import MEDIA_TYPE_GZIP, decompress, parse_report
from stsguard.ports import Clock, Mailer, ReportPoster, Signer


class Dispatcher:
    """Sends stored reports from `sender`. Every attempt carries the same octets and the same Message-ID; only the date
    of the mail differs. Without a `signer` the local MTA has to sign (RFC 8460 §3)."""

    def __init__(
        self, sender: str, *, mailer: Mailer, poster: ReportPoster, signer: Signer | None, clock: Clock
    ) -> None:
        self._sender = sender
        self._mailer = mailer
        self._poster = poster
        self._signer = signer
        self._clock = clock

    async def send(self, record: ReportRecord, endpoint: str) -> None:
        """Deliver `record` to `endpoint`, a rua URI.

        Raises:
            DeliveryFailed: it was not taken.
        """
        if endpoint[:7].lower() != "mailto:":
            await self._poster.post(endpoint, record.json, MEDIA_TYPE_GZIP)
            return
        addresses = mailto_addresses(endpoint)
        if not addresses:
            raise DeliveryFailed(False, "the mailto URI names no address that can be used")
        message = self.mail(record, addresses)
        await self._mailer.send(self._sender, addresses, self._signer.sign(message) if self._signer else message)

    def mail(self, record: ReportRecord, addresses: tuple[str, ...]) -> bytes:
        """The message to `addresses`, not signed.

        Raises:
            DeliveryFailed: the stored report is damaged.
        """
        try:
            report = parse_report(decompress(record.json))
        except ReportInvalid as exc:
            raise DeliveryFailed(False, f"the stored report can't be read: {exc}") from exc
        return build_mail(
            report,
            addresses,
            report_domain=record.report_domain,
            sender=self._sender,
            message_id=record.message_id.strip("<>"),
            at=self._clock.now(),
            packed=record.json,
        )
