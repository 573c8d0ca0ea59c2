"""The tables of certificates and challenges: rows and `CertificateState`, `AcmeChallenge` values. Every call blocks."""

from datetime import datetime
from typing import Any

from sqlalchemy import Row, and_, delete, or_, select

from stsguard.core.hosted import AcmeChallenge, CertificateState
from stsguard.names import Domain
from stsguard.store.alchemy import AlchemyDatabase, insert_into
from stsguard.store.hosting_schema import acme_challenges, certificates
from stsguard.store.instants import from_micros, to_micros
from stsguard.store.rows import (
    Readable,
    RowInvalid,
    one_line,
    optional_instant,
    optional_micros,
    read_rows,
)

MAX_ERROR_LENGTH = 1000
_CERTIFICATES, _CHALLENGES = certificates.c, acme_challenges.c


class CertificateTable:
    """The tables in an open database. Reads may come from one thread and writes from another.

    Every call raises `StoreUnavailable` for every fault of the database; a write is then not done.
    """

    def __init__(self, database: AlchemyDatabase) -> None:
        self._database = database

    def load_states(self) -> Readable[CertificateState]:
        """The states of all Policy Hosts, in order of their names."""
        with self._database.scanning() as connection:
            return read_rows(_state, connection.execute(select(certificates).order_by(_CERTIFICATES.policy_host)))

    def save_state(self, state: CertificateState) -> None:
        """Write the state in place of what is there, and end the claim."""
        values = {
            "not_before": optional_micros(state.not_before),
            "not_after": optional_micros(state.not_after),
            "renew_at": optional_micros(state.renew_at),
            "failures": state.failures,
            "next_attempt_at": optional_micros(state.next_attempt_at),
            "last_error": one_line(state.last_error, MAX_ERROR_LENGTH),
            "claimed_by": "",
            "claimed_until": None,
        }
        with self._database.writing() as connection:
            statement = insert_into(connection, certificates).values(policy_host=str(state.policy_host), **values)
            connection.execute(statement.on_conflict_do_update(index_elements=["policy_host"], set_=values))

    def claim(self, policy_host: Domain, node: str, now: datetime, until: datetime) -> bool:
        """Whether nobody else had a claim that still holds, and `node` has it now."""
        claimed = {"claimed_by": node, "claimed_until": to_micros(until)}
        with self._database.writing() as connection:
            statement = insert_into(connection, certificates).values(
                policy_host=str(policy_host), failures=0, last_error="", **claimed
            )
            statement = statement.on_conflict_do_update(
                index_elements=["policy_host"],
                set_=claimed,
                where=or_(
                    _CERTIFICATES.claimed_until.is_(None),
                    _CERTIFICATES.claimed_until <= to_micros(now),
                    _CERTIFICATES.claimed_by == node,
                ),
            )
            return connection.execute(statement.returning(_CERTIFICATES.policy_host)).first() is not None

    def save_challenge(self, challenge: AcmeChallenge) -> None:
        """Write the challenge in place of one with its token."""
        values = {
            "host": str(challenge.host),
            "content": challenge.content,
            "expires_at": to_micros(challenge.expires_at),
        }
        with self._database.writing() as connection:
            statement = insert_into(connection, acme_challenges).values(
                kind=challenge.kind, token=challenge.token, **values
            )
            connection.execute(statement.on_conflict_do_update(index_elements=["kind", "token"], set_=values))

    def load_challenges(self) -> Readable[AcmeChallenge]:
        """All of them, expired or not."""
        with self._database.scanning() as connection:
            query = select(acme_challenges).order_by(_CHALLENGES.kind, _CHALLENGES.token)
            return read_rows(_challenge, connection.execute(query))

    def load_challenge(self, kind: str, token: str, now: datetime) -> Readable[AcmeChallenge]:
        """The one with this token, or nothing."""
        query = select(acme_challenges).where(_is(kind, token), _CHALLENGES.expires_at > to_micros(now))
        with self._database.reading() as connection:
            return read_rows(_challenge, connection.execute(query))

    def delete_expired(self, now: datetime) -> None:
        """Delete those that have expired."""
        with self._database.writing() as connection:
            connection.execute(delete(acme_challenges).where(_CHALLENGES.expires_at <= to_micros(now)))

    def delete_challenge(self, kind: str, token: str) -> None:
        """Delete the one with this token."""
        with self._database.writing() as connection:
            connection.execute(delete(acme_challenges).where(_is(kind, token)))


def _is(kind: str, token: str) -> Any:
    return and_(_CHALLENGES.kind == kind, _CHALLENGES.token == token)


def _state(row: Row[Any]) -> CertificateState:
    try:
        return CertificateState(
            policy_host=Domain(row.policy_host),
            not_before=optional_instant(row.not_before),
            not_after=optional_instant(row.not_after),
            renew_at=optional_instant(row.renew_at),
            failures=row.failures,
            next_attempt_at=optional_instant(row.next_attempt_at),
            last_error=row.last_error,
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"certificate of {str(row.policy_host)[:253]!r}: {exc}") from exc


def _challenge(row: Row[Any]) -> AcmeChallenge:
    try:
        return AcmeChallenge(
            kind=row.kind,
            host=Domain(row.host),
            token=row.token,
            content=row.content,
            expires_at=from_micros(row.expires_at),
        )
    except (ValueError, TypeError, OverflowError) as exc:
        raise RowInvalid(f"challenge {str(row.token)[:100]!r}: {exc}") from exc
