"""The milter protocol, by pymilter: one object for each SMTP connection, called on that connection's thread.

Postfix is asked for no more than is needed: recipients without waiting for an answer, header and body only of a mail
to a report address, byte for byte (SMFIP_HDR_LEADSPC), since its DKIM signature is verified later. Every other mail
costs one exchange, at DATA, by which the milter is done with it.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import Milter
import milter as libmilter

from stsguard.core.errors import ListenFailed
from stsguard.discovery.supervisor import contained
from stsguard.milter.mail import Answer, Intake, Mail, Ruling

NAME = "stsguard"
ANSWERS = {
    Answer.ACCEPT: Milter.ACCEPT,
    Answer.DISCARD: Milter.DISCARD,
    Answer.TEMPFAIL: Milter.TEMPFAIL,
    Answer.REJECT: Milter.REJECT,
}
BACKLOG = 200  # a Postfix with hundreds of smtpd(8) processes connects at once after a restart


@Milter.header_leading_space
class Connection(Milter.Base):  # type: ignore[misc] # pymilter has no types
    """One SMTP connection; several mails after each other. A fault of ours is logged, and no mail waits for it but one
    that is a report and nothing else."""

    intake: Intake  # of the class that `serve` makes

    def __init__(self) -> None:
        self._client = ""
        self._mail: Mail | None = None

    @Milter.noreply
    def connect(self, _hostname: str, _family: int, address: Any) -> int:
        """Who the client is: for inet and inet6 (address, port, …)."""
        self._client = address[0] if isinstance(address, tuple) else ""
        return int(Milter.CONTINUE)

    @Milter.noreply
    @Milter.decode("bytes")
    def envrcpt(self, path: bytes, *_parameters: bytes) -> int:
        """RCPT TO, accepted by Postfix."""
        if self._mail is None:
            self._mail = Mail(self.intake, self._client)
        mailer, host = self.getsymval("{rcpt_mailer}"), self.getsymval("{rcpt_host}")
        contained("milter recipient", partial(self._mail.add_recipient, path, mailer or "", host or ""))
        return int(Milter.CONTINUE)

    def data(self) -> int:
        """All recipients are known: with no report address among them this is the end."""
        if self._mail is not None and self._mail.wanted:
            return int(Milter.CONTINUE)
        self._forget()
        return int(Milter.ACCEPT)

    @Milter.noreply
    @Milter.decode("bytes")
    def header(self, name: str, value: bytes) -> int:
        """One field, its value as it came but for the line ends."""
        field = name.encode("utf-8", "surrogateescape") + b":" + value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
        return self._add(field + b"\r\n")

    @Milter.noreply
    def eoh(self) -> int:
        """The empty line."""
        return self._add(b"\r\n")

    @Milter.noreply
    def body(self, octets: bytes) -> int:
        """A piece of the body."""
        return self._add(octets)

    def _add(self, octets: bytes) -> int:
        if self._mail is not None:
            contained("milter content", partial(self._mail.add, octets))
        return int(Milter.CONTINUE)

    def eom(self) -> int:
        """The end: the report is kept before this answers."""
        mail, self._mail = self._mail, None
        if mail is None:
            return int(Milter.ACCEPT)
        rulings: list[Ruling] = []
        queue_id = self.getsymval("i") or ""
        if not contained("milter mail", lambda: rulings.append(mail.finish(queue_id))):
            rulings = [mail.after_fault()]
        ruling = rulings[0]
        for path in ruling.taken_off:
            contained("milter recipient", partial(self.delrcpt, path.decode("utf-8", "surrogateescape")))
        if ruling.reply is not None:
            code, enhanced, text = ruling.reply
            self.setreply(code, enhanced, text.replace("%", "%%"))
        return int(ANSWERS[ruling.answer])

    def abort(self) -> int:
        """RSET, or the client went away."""
        self._forget()
        return int(Milter.CONTINUE)

    def close(self) -> int:
        """The end of the connection."""
        self._forget()
        return int(Milter.CONTINUE)

    def _forget(self) -> None:
        if self._mail is not None:
            self._mail.drop()
        self._mail = None


def serve(socket: str, intake: Intake, opened: Callable[[], None]) -> None:
    """Answer Postfix at `socket`, in libmilter's form, until SIGTERM; `opened` is called once it is open.

    Signals are libmilter's: SIGTERM, SIGINT and SIGHUP have to be blocked in all threads.

    Raises:
        ListenFailed: the socket can't be opened.
    """
    Milter.factory = type("Served", (Connection,), {"intake": intake})
    libmilter.set_flags(Milter.DELRCPT)
    # What is not contained is a fault of ours: no mail waits for it.
    libmilter.set_exception_policy(Milter.CONTINUE)
    libmilter.set_connect_callback(Milter.connect_callback)
    libmilter.set_envrcpt_callback(lambda context, *octets: context.getpriv().envrcpt_bytes(*octets))
    libmilter.set_header_callback(lambda context, name, value: context.getpriv().header_bytes(name, value))
    libmilter.set_eoh_callback(lambda context: context.getpriv().eoh())
    libmilter.set_body_callback(lambda context, octets: context.getpriv().body(octets))
    libmilter.set_eom_callback(lambda context: context.getpriv().eom())
    libmilter.set_abort_callback(lambda context: context.getpriv().abort())
    libmilter.set_close_callback(Milter.close_callback)
    libmilter.setconn(socket)
    libmilter.setbacklog(BACKLOG)
    libmilter.register(NAME, data=lambda context: context.getpriv().data(), negotiate=Milter.negotiate_callback)
    try:
        libmilter.opensocket(False)
    except libmilter.error as exc:
        raise ListenFailed(f"libmilter can't listen at {socket}: {exc}") from exc
    opened()
    libmilter.main()
