"""One connection of an smtpd(8) to the milter, on the event loop: several mails after each other.

Postfix is asked for no more than is needed: recipients, without waiting for an answer, with the macros that tell of
them and of the client; header and body only of a mail to a report address, octet by octet, since its DKIM signature is
verified later. Every other mail costs one exchange, at DATA, by which the milter is done with it. A fault of ours is
logged, and no mail waits for it but one that is a report and nothing else.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import cast

from stsguard.core import milter_protocol as protocol
from stsguard.core.milter_protocol import Agreement, PacketInvalid
from stsguard.discovery.supervisor import contained, supervised
from stsguard.log import logger, outcome
from stsguard.milter.mail import Answer, Intake, Mail, Ruling

log = logger(__name__)

MACROS = "{rcpt_mailer} {rcpt_host} {client_addr}"
ANSWERS = {
    Answer.ACCEPT: protocol.ACCEPT,
    Answer.DISCARD: protocol.DISCARD,
    Answer.TEMPFAIL: protocol.TEMPFAIL,
}
NOTHING_AGREED = Agreement(b"", frozenset(), leading_space=False)


class Connections:
    """The connections that there are, and the mails that are being kept."""

    def __init__(self, intake: Intake, executor: Executor) -> None:
        self._intake = intake
        self._executor = executor
        self._open: set[Connection] = set()
        self._keeping: set[asyncio.Task[bool]] = set()

    def __call__(self) -> "Connection":
        """A new one, as `create_server` wants it."""
        return Connection(self._intake, self._open, self._keep)

    async def close(self, limit_seconds: float) -> None:
        """End them, once the mails are kept that are under way."""
        if self._keeping:
            await asyncio.wait(self._keeping, timeout=limit_seconds)
        for connection in tuple(self._open):
            connection.end()

    def _keep(self, mail: Mail, queue_id: str, done: Callable[[Ruling], None]) -> None:
        """Keep a mail, which takes a sync of the disk, in another thread."""

        async def work() -> None:
            rulings: list[Ruling] = []

            async def finish() -> None:
                loop = asyncio.get_running_loop()
                rulings.append(await loop.run_in_executor(self._executor, mail.finish, queue_id))

            await supervised("milter mail", finish())
            done(rulings[0] if rulings else mail.after_fault())

        task = asyncio.get_running_loop().create_task(supervised("milter", work()))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)


class Connection(asyncio.Protocol):
    """One of them."""

    def __init__(
        self,
        intake: Intake,
        connections: "set[Connection]",
        keep: Callable[[Mail, str, Callable[[Ruling], None]], None],
    ) -> None:
        self._intake = intake
        self._connections = connections
        self._keep = keep
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._agreement = NOTHING_AGREED
        self._macros: dict[str, str] = {}
        self._mail: Mail | None = None
        self._busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Postfix is there."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass
        self._connections.add(self)

    def connection_lost(self, _exc: Exception | None) -> None:
        """It is gone."""
        self._transport = None
        self._connections.discard(self)
        self._forget()

    def data_received(self, data: bytes) -> None:
        """What it says. While a mail is being kept it says nothing, but for giving up."""
        self._buffer += data
        if self._busy:
            if len(self._buffer) > protocol.MAX_PACKET_BYTES:
                self.end()
        elif not contained("milter connection", self._read):
            self.end()

    def end(self) -> None:
        """Close it. Postfix goes on without the milter, as main.cf says."""
        if self._transport is not None:
            self._transport.abort()

    def _read(self) -> None:
        try:
            for command, octets in protocol.take_packets(self._buffer):
                self._obey(command, octets)
                if self._busy or self._transport is None:
                    return
        except PacketInvalid as exc:
            outcome(log, 30, "not the milter protocol, connection closed", reason=str(exc))
            self.end()

    def _obey(self, command: bytes, octets: bytes) -> None:
        if command == protocol.MACROS:
            if octets[:1] in (protocol.RECIPIENT, protocol.END):
                self._macros |= protocol.parse_macros(octets[1:])
        elif command == protocol.NEGOTIATE:
            self._agreement = protocol.negotiate(octets, MACROS)
            self._write(self._agreement.answer)
        elif command == protocol.DATA:
            wanted = self._mail is not None and self._mail.wanted
            if not wanted:
                self._forget()
            self._write(protocol.CONTINUE if wanted else protocol.ACCEPT)
        elif command == protocol.END:
            self._end_of_mail(octets)
        elif command in (protocol.ABORT, protocol.QUIT_NEW):
            self._forget()
        elif command == protocol.QUIT:
            self.end()
        else:
            self._take(command, octets)
            if command not in self._agreement.quiet:
                self._write(protocol.CONTINUE)

    def _take(self, command: bytes, octets: bytes) -> None:
        """Something of which the mail consists."""
        if command == protocol.RECIPIENT:
            if self._mail is None:
                self._mail = Mail(self._intake, self._macros.get("{client_addr}", ""))
            path = octets.partition(b"\0")[0]
            mailer, host = (self._macros.get(name, "") for name in ("{rcpt_mailer}", "{rcpt_host}"))
            contained("milter recipient", partial(self._mail.add_recipient, path, mailer, host))
        elif self._mail is None:
            return
        elif command == protocol.HEADER:
            self._mail.add(protocol.header_field(octets, leading_space=self._agreement.leading_space))
        elif command == protocol.END_OF_HEADER:
            self._mail.add(b"\r\n")
        elif command == protocol.BODY:
            self._mail.add(octets)

    def _end_of_mail(self, octets: bytes) -> None:
        mail, self._mail = self._mail, None
        queue_id, self._macros = self._macros.get("i", ""), {}
        if mail is None or not mail.wanted:
            self._write(protocol.ACCEPT)
            return
        mail.add(octets)
        self._busy = True
        self._keep(mail, queue_id, self._rule)

    def _rule(self, ruling: Ruling) -> None:
        """Answer for the mail that has been kept, or not."""
        for path in ruling.taken_off:
            self._write(protocol.delete_recipient(path))
        self._write(protocol.refuse(*ruling.reply) if ruling.reply is not None else ANSWERS[ruling.answer])
        self._busy = False
        self.data_received(b"")

    def _write(self, octets: bytes) -> None:
        if self._transport is not None:
            self._transport.write(octets)

    def _forget(self) -> None:
        if self._mail is not None:
            self._mail.drop()
        self._mail = None
        self._macros = {}
