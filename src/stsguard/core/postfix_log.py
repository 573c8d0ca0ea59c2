"""From the mail log to sessions: joins what smtp(8) and tlsproxy(8) say of one connection (RFC 8460 §4.3).

TLS lines carry no queue id, so they are kept by process id until the process says what became of the message: an
smtp(8) process makes one delivery at a time. tlsproxy(8) is another process; its lines are joined by the MX host's
address. Where Postfix (≥ 3.10) wrote a `TLSRPT:` line for a connection, that line alone is the session. Else the TLS
lines and the delivery are; that includes resumed TLS sessions, of which Postfix 3.10 writes none.

What the log does not tell: the next hop of a delivery without `TLSRPT:` line. The recipient's domain stands for it;
with a relayhost or a transport table the next hop is another name, so sessions at an address literal are left out, and
whoever judges has to see that the MX host is one of the domain's. Nor does it tell `TLS-Required: no`, before 3.11 a
local `none`, or whether EHLO was refused and HELO taken.

A delivery without TLS is only told as such when all its lines were seen and the service is known to log TLS: a missing
line must not become a missing STARTTLS. A reused TLS connection is no session: it was one when it was established.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import assert_never

from stsguard.core.errors import ResultType
from stsguard.core.postfix_log_lines import (
    HANDSHAKE_REASON,
    TLSA_UNUSABLE_REASON,
    ChainFailed,
    Delivery,
    Endpoint,
    HandshakeFailed,
    Line,
    LineParser,
    MxSkipped,
    PolicyFailed,
    Remark,
    TlsaUnusable,
    TlsEstablished,
    TlsReport,
    parse_host,
    tells_of_loss,
)
from stsguard.core.postfix_log_state import (
    MAX_ATTEMPTS,
    Attempt,
    Failure,
    LogMemory,
    Process,
    Proxied,
    by_word,
    is_literal,
    keep,
    last_attempt,
    new_attempt,
    open_attempt,
    reported_attempt,
)
from stsguard.core.session import Seen, Session, Source
from stsguard.names import Domain

MAX_PROCESSES = 4096  # default_process_limit is 100; large sites have a few thousand
MAX_PROXIED = 4096
MAX_SERVICES = 64
MAX_HOSTS = 4096
PROCESS_LIFE = timedelta(hours=2)  # then a process id may be another process's; no delivery takes so long
PROXY_LIFE = timedelta(minutes=5)  # between tlsproxy's line and smtp's: smtp_starttls_timeout is 300 s
RECIPIENTS_WITHIN = timedelta(seconds=5)  # the lines of all recipients of a connection are written in one go

VERIFIED = "Verified"  # Postfix's word where a certificate was demanded and is good; at `may` it is never used
_LOSS_WORD = " messages "  # in every line that tells of a loss
_REQUIRED = "TLS is required, "
_UNVERIFIED = "Server certificate not verified"
_NO_HANDSHAKE = "Cannot start TLS: handshake failure"
_NOT_STARTED = re.compile(
    r"TLS is required, but (?:was not offered by )?host (?P<host>[^\s\[\]]{1,255})\[(?P<address>[0-9A-Fa-f.:]{2,45})\]"
    r"(?P<refused> refused to start TLS: )?"
)
# The reply that a message or recipient was refused with shows that the connection had got beyond EHLO and STARTTLS.
# Postfix writes these words behind the remote host's own.
_AFTER_HELO = re.compile(r"host \S+ said: .*\(in reply to (?:MAIL FROM|RCPT TO|DATA|end of DATA) command\)")

_NO_FAILURE = (None, "")
_HANDSHAKE: Failure = (ResultType.VALIDATION_FAILURE, HANDSHAKE_REASON)
_TLSA_INVALID: Failure = (ResultType.TLSA_INVALID, TLSA_UNUSABLE_REASON)
_NO_STARTTLS: Failure = (ResultType.STARTTLS_NOT_SUPPORTED, "")


class LogReader:
    """Turns the lines of one Postfix instance into sessions, with bounded memory.

    `instance` goes into each session. `syslog_name` and `time_zone` (of classic time stamps) are those of the log.
    `logs_tls` says that smtp_tls_loglevel is known to be 1 at least; without it, each service is believed to log TLS
    once it has done so. `from_start` says that nothing came before the first line fed. After lines were lost, make a
    new one; to go on where another one stopped, give it that one's `memory`.
    """

    def __init__(
        self,
        instance: str,
        *,
        syslog_name: str = "postfix",
        time_zone: tzinfo = UTC,
        logs_tls: bool = False,
        from_start: bool = False,
        memory: LogMemory | None = None,
    ) -> None:
        self._instance = instance
        self._parser = LineParser(syslog_name, time_zone)
        self._logs_tls = logs_tls
        self._hosts: dict[str, Domain | None] = {}
        self._memory = memory or LogMemory(datetime.min.replace(tzinfo=UTC) if from_start else None)
        # By names of their own, since they are looked into for every line.
        self._tls_services, self._processes = self._memory.tls_services, self._memory.processes
        self._proxied = self._memory.proxied

    def memory(self) -> LogMemory:
        """What the next reader has to know so that it neither loses nor doubles a session: deliveries under way, those
        whose further recipients may be told of yet, what tlsproxy(8) said last. It changes with the next line."""
        whole = self._memory
        last = max((process.at for process in whole.processes.values()), default=datetime.min.replace(tzinfo=UTC))
        processes = OrderedDict(
            (process_id, process)
            for process_id, process in whole.processes.items()
            if last - process.at <= (PROCESS_LIFE if process.attempts or process.skipped else RECIPIENTS_WITHIN)
        )
        proxied = OrderedDict((key, each) for key, each in whole.proxied.items() if last - each.at <= PROXY_LIFE)
        return LogMemory(whole.complete_since, whole.tls_services, processes, proxied)

    def feed(self, line: str, now: datetime) -> list[Session]:
        """The sessions that `line` completes, mostly none. `now` (aware) gives classic time stamps their year."""
        return self.feed_all((line,), now)

    def feed_all(self, lines: Sequence[str], now: datetime) -> list[Session]:
        """The sessions that these lines complete, in one go: a batch costs half of what its lines cost one by one."""
        sessions: list[Session] = []
        # Nine lines in ten are of other programs, and these searches are all that they cost. Most batches have neither
        # tlsproxy(8) nor losses, and one search in all of them together costs a quarter of one in each.
        text = "".join(lines)
        has_others = "/tlsproxy[" in text or _LOSS_WORD in text or self._memory.complete_since is None
        for line in lines if has_others else [line for line in lines if "/smtp[" in line]:
            sessions += self._feed_postfix(line, now) if "/smtp[" in line else self._feed_other(line, now)
        return sessions

    def _feed_other(self, line: str, now: datetime) -> list[Session]:
        if "/tlsproxy[" in line:
            return self._feed_postfix(line, now)
        if self._memory.complete_since is None or (_LOSS_WORD in line and tells_of_loss(line)):
            self._memory.complete_since = self._parser.parse_time(line, now)
        return []

    def _feed_postfix(self, line: str, now: datetime) -> list[Session]:
        if self._memory.complete_since is None:
            self._memory.complete_since = self._parser.parse_time(line, now)
        found = self._parser.parse(line, now)
        if found is None:
            return []
        return self._feed_smtp(found) if found.program == "smtp" else self._feed_proxy(found)

    def _host(self, text: str) -> Domain | None:
        """A name of the log in canonical form: most come again and again."""
        try:
            return self._hosts[text]
        except KeyError:
            if len(self._hosts) >= MAX_HOSTS:
                self._hosts.clear()
            host = self._hosts[text] = parse_host(text)
            return host

    def _feed_smtp(self, line: Line) -> list[Session]:
        process = self._process(line)
        event = line.event
        if isinstance(event, Delivery):  # these two are nearly all, and matched faster so
            return self._finish(line, process, event)
        if isinstance(event, TlsEstablished):
            self._establish(line, process, event)
            return []
        match event:
            case ChainFailed(endpoint=endpoint, result_type=result_type, reason=reason):
                attempt = open_attempt(process, endpoint)
                attempt.suspected = attempt.suspected or (result_type, reason)
            case HandshakeFailed(endpoint=endpoint):
                open_attempt(process, endpoint).handshake_failed = True
            case TlsaUnusable(endpoint=endpoint):
                open_attempt(process, endpoint).tlsa_unusable = True
            case TlsReport():
                reported_attempt(process, event).reported = True
                return self._from_report(line, process, event)
            case MxSkipped() | PolicyFailed():
                if len(process.skipped) < MAX_ATTEMPTS:
                    process.skipped[event] = None
            case Remark():
                self._conclude(line, process, event.text, None)
            case _:
                assert_never(event)
        return []

    def _feed_proxy(self, line: Line) -> list[Session]:
        event = line.event
        if isinstance(event, TlsReport):
            proxied = self._proxied_for(event.host.lower(), event.address.lower(), line.at)
            domain = self._host(event.domain)
            if len(proxied.reported) < MAX_ATTEMPTS:
                proxied.reported[domain] = proxied.reported.get(domain, 0) + 1
            return self._from_report(line, None, event)
        if isinstance(event, ChainFailed):
            proxied = self._proxied_for(event.endpoint.host, event.endpoint.address, line.at)
            proxied.suspected = (event.result_type, event.reason)
        elif isinstance(event, HandshakeFailed):
            self._proxied_for(event.endpoint.host, event.endpoint.address, line.at).handshake_failed = True
        elif isinstance(event, TlsaUnusable):
            self._proxied_for(event.endpoint.host, event.endpoint.address, line.at).tlsa_unusable = True
        return []

    def _process(self, line: Line) -> Process:
        process = self._processes.get(line.process_id)
        if process is None or line.at - process.at > PROCESS_LIFE:
            process = self._processes[line.process_id] = Process(line.at)
            if keep(self._processes, MAX_PROCESSES):
                self._memory.complete_since = line.at  # the lines of what was forgotten count as not seen
        process.at = line.at
        self._processes.move_to_end(line.process_id)
        return process

    def _proxied_for(self, host: str, address: str, at: datetime) -> Proxied:
        proxied = self._proxied.get((host, address))
        if proxied is None or at - proxied.at > PROXY_LIFE:
            proxied = self._proxied[host, address] = Proxied(at)
        proxied.at = at
        self._proxied.move_to_end((host, address))
        keep(self._proxied, MAX_PROXIED)
        return proxied

    def _recently_proxied(self, endpoint: Endpoint, at: datetime) -> Proxied | None:
        proxied = self._proxied.get((endpoint.host, endpoint.address))
        return proxied if proxied is not None and at - proxied.at <= PROXY_LIFE else None

    def _establish(self, line: Line, process: Process, event: TlsEstablished) -> None:
        if line.service not in self._tls_services:
            self._tls_services[line.service] = None
            keep(self._tls_services, MAX_SERVICES)
        attempt = open_attempt(process, event.endpoint)
        attempt.word, attempt.reused = event.word, event.reused
        proxied = self._recently_proxied(event.endpoint, line.at) if self._proxied else None
        if proxied is not None and not event.reused:
            attempt.suspected = attempt.suspected or proxied.suspected
            attempt.tlsa_unusable = attempt.tlsa_unusable or proxied.tlsa_unusable
            proxied.suspected, proxied.tlsa_unusable = None, False

    def _conclude(self, line: Line, process: Process, text: str, endpoint: Endpoint | None) -> bool:
        """Note the failure that `text` names, with which Postfix gave up a host; whether it names one.

        `endpoint` None: the host that the process tried last, or which the text names.
        """
        if not text.startswith(_REQUIRED) and text not in {_UNVERIFIED, _NO_HANDSHAKE}:
            return False
        if found := _NOT_STARTED.match(text):
            if bool(found["refused"]) is not ("was not offered" in found[0]):
                named = Endpoint(found["host"].lower(), found["address"].lower(), endpoint.port if endpoint else 25)
                open_attempt(process, named).failure = _NO_STARTTLS
            return True
        if text.startswith(_REQUIRED):
            return True  # and our own TLS is not available
        attempt = last_attempt(process, endpoint)
        if attempt is None:
            if endpoint is None:
                return True
            attempt = new_attempt(process, endpoint)
        nameless = attempt.endpoint._replace(host="")
        looked_up = [self._recently_proxied(each, line.at) for each in (attempt.endpoint, nameless)]
        proxied = [each for each in looked_up if each is not None]
        if text == _UNVERIFIED:
            attempt.failure = attempt.suspected or by_word(attempt.word)
        elif attempt.handshake_failed or any(each.handshake_failed for each in proxied):
            # Without that line it was our own TLS that failed: not theirs, and not reported as such.
            attempt.failure, attempt.handshake_failed = _HANDSHAKE, True
        for each in proxied:
            each.handshake_failed = False
        return True

    def _finish(self, line: Line, process: Process, event: Delivery) -> list[Session]:
        """All that is known of the connections of this delivery, once one of its recipients is told of."""
        this = (event.queue_id, event.endpoint, event.delays)
        if not process.attempts and not process.skipped and this == process.finished:
            return []  # a further recipient of the same connection
        process.finished = this
        domain = self._host(event.recipient_domain)
        sessions: list[Session] = []
        if domain is not None:
            without_tls = self._without_tls(line, process, event, domain)
            for skipped in process.skipped:
                sessions += self._from_skipped(line, skipped, domain)
            for attempt in process.attempts:
                sessions += self._from_attempt(line, attempt, event, domain)
            sessions += without_tls
        process.attempts.clear()
        process.skipped.clear()
        return sessions

    def _without_tls(self, line: Line, process: Process, event: Delivery, domain: Domain) -> list[Session]:
        """The session of a connection that no TLS line tells of, if that means something."""
        if self._conclude(line, process, event.text, event.endpoint):
            return []
        if event.endpoint is None:
            if event.text != "TLSA records unusable":  # dane-only; Postfix makes no connection then
                return []
            nowhere = Endpoint("", "", 25)
            return [self._session(line, Seen.FAILURE, domain, nowhere, failure=_TLSA_INVALID, level="dane-only")]
        attempt = last_attempt(process, event.endpoint)
        if attempt is not None and (attempt.word or (attempt.reported and not attempt.handshake_failed)):
            return []
        if not (event.status == "sent" or _AFTER_HELO.match(event.text)) or is_literal(event.endpoint):
            return []
        return self._unlogged(line, process, event, event.endpoint, domain)

    def _unlogged(
        self, line: Line, process: Process, event: Delivery, endpoint: Endpoint, domain: Domain
    ) -> list[Session]:
        """The session of a connection that carried mail without a TLS line: by `tls=`, or else it had no TLS."""
        tls = event.tls
        if tls is not None and (tls.violated or tls.undecided):
            return []
        level = tls.level if tls else ""
        if tls is not None and tls.final != "none":
            if event.conn_use > 1:
                return []
            return [self._session(line, Seen.SUCCESS, domain, endpoint, level=level)]
        if tls is None and not self._knows_all_of(line, event):
            return []
        tried = any(a.handshake_failed and a.endpoint.host == endpoint.host for a in process.attempts)
        new = event.conn_use == 1
        return [self._session(line, Seen.PLAINTEXT, domain, endpoint, level=level, tls_tried=tried, new=new)]

    def _knows_all_of(self, line: Line, event: Delivery) -> bool:
        """Whether a TLS line of this delivery would have been seen, had there been one."""
        if not self._logs_tls and line.service not in self._tls_services:
            return False
        # Classic stamps are cut to seconds, and `delays=` rounded to two digits.
        seconds = event.seconds() * 1.1 + 1.0
        since = self._memory.complete_since
        return since is not None and (line.at - since).total_seconds() >= seconds

    def _from_attempt(self, line: Line, attempt: Attempt, event: Delivery, domain: Domain) -> list[Session]:
        if attempt.reported or attempt.reused or is_literal(attempt.endpoint):
            return []
        failure = attempt.failure
        if failure is None:
            if not attempt.word:
                return []
            if attempt.tlsa_unusable:
                failure = _TLSA_INVALID
        if self._proxied and self._reported_by_proxy(line, attempt, domain, failed=failure is not None):
            return []
        seen = Seen.SUCCESS if failure is None else Seen.FAILURE
        level = event.tls.level if event.tls and attempt.endpoint == event.endpoint else ""
        accepted = failure is None and attempt.word != VERIFIED
        return [
            self._session(
                line, seen, domain, attempt.endpoint, failure=failure, level=level, accepted_unverified=accepted
            )
        ]

    def _reported_by_proxy(self, line: Line, attempt: Attempt, domain: Domain, *, failed: bool) -> bool:
        """Whether a TLSRPT line of tlsproxy(8) is this connection's session."""
        proxied = self._recently_proxied(attempt.endpoint, line.at)
        if proxied is None or not proxied.reported:
            return False
        if proxied.reported.get(domain, 0) > 0:
            proxied.reported[domain] -= 1
            return True
        # Reported under a next hop that is not the recipient's domain, as far as can be told. Successes are not
        # reported by tlsproxy(8), so for them it was another connection.
        return failed

    def _from_report(self, line: Line, process: Process | None, event: TlsReport) -> list[Session]:
        domain = self._host(event.domain)
        if domain is None:
            return []
        endpoint = Endpoint(event.host.lower(), event.address.lower(), 25)
        if process is not None:
            endpoint = process.attempts[-1].endpoint
        failure = (event.result_type, event.reason) if event.result_type is not None else None
        seen = Seen.SUCCESS if failure is None else Seen.FAILURE
        return [self._session(line, seen, domain, endpoint, failure=failure)]

    def _from_skipped(self, line: Line, skipped: MxSkipped | PolicyFailed, domain: Domain) -> list[Session]:
        mx_hostname = self._host(skipped.mx_hostname)
        if mx_hostname is None:
            return []
        if isinstance(skipped, MxSkipped):
            seen, policy_domain = Seen.MX_NOT_PERMITTED, self._host(skipped.policy_domain)
            next_hop = policy_domain or domain
        else:
            seen, policy_domain, next_hop = Seen.NO_TLS_POLICY, None, self._host(skipped.next_hop) or domain
        return [
            Session(
                at=line.at,
                source=Source.LOG,
                instance=self._instance,
                seen=seen,
                recipient_domain=next_hop,
                policy_domain=policy_domain,
                receiving_mx_hostname=mx_hostname,
            )
        ]

    def _session(
        self,
        line: Line,
        seen: Seen,
        domain: Domain,
        endpoint: Endpoint,
        *,
        failure: Failure | None = None,
        level: str = "",
        tls_tried: bool = False,
        new: bool = True,
        accepted_unverified: bool = False,
    ) -> Session:
        result_type, reason = failure or _NO_FAILURE
        host, address, port = endpoint
        # By position: keywords take twice as long, and this is once a delivery.
        return Session(
            line.at,
            Source.LOG,
            self._instance,
            seen,
            domain,
            None,  # policy_type, policy_domain and policy_strings
            None,
            (),
            result_type,
            reason,
            "",
            self._host(host),
            "",
            address,
            "",
            port,
            new,
            level,
            (),
            tls_tried,
            accepted_unverified,
        )
