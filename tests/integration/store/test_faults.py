"""No error of a library leaves the store as such."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
import sqlalchemy.exc

from stsguard.core.errors import StoreUnavailable
from stsguard.store.faults import as_unavailable, user


def subclasses(top: type[BaseException]) -> Iterator[type[BaseException]]:
    yield top
    for below in top.__subclasses__():
        yield from subclasses(below)


UPSTREAM = [
    *subclasses(sqlalchemy.exc.SQLAlchemyError),
    *subclasses(sqlite3.Error),
    *subclasses(psycopg.Error),
    PermissionError,
    ConnectionResetError,
    ModuleNotFoundError,
]


@pytest.mark.parametrize("upstream", UPSTREAM, ids=lambda each: each.__name__)
def test_every_upstream_error_becomes_ours(upstream: type[BaseException]) -> None:
    if issubclass(upstream, sqlalchemy.exc.StatementError):
        error: BaseException = upstream(
            "odd\nsecond line", "SELECT 1", {}, sqlite3.OperationalError("odd\nsecond line")
        )
        if issubclass(upstream, sqlalchemy.exc.DBAPIError):
            error = upstream("SELECT 1", {}, sqlite3.OperationalError("odd\nsecond line"))
    else:
        error = upstream.__new__(upstream)
        error.args = ("odd\nsecond line",)
    with pytest.raises(StoreUnavailable) as caught, as_unavailable("database x"):
        raise error
    assert str(caught.value).startswith("database x: ")
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


def test_what_a_library_says_is_cut() -> None:
    with pytest.raises(StoreUnavailable) as caught, as_unavailable("database x"):
        raise sqlite3.OperationalError("x" * 10_000)
    assert len(str(caught.value)) < 250


def test_a_bug_stays_a_bug() -> None:
    with pytest.raises(ZeroDivisionError), as_unavailable("database x"):
        _ = 1 / 0


def test_fault_without_advice_is_told_in_the_librarys_words() -> None:
    with (
        closing(sqlite3.connect(":memory:")) as connection,
        pytest.raises(StoreUnavailable) as caught,
        as_unavailable("database x"),
    ):
        connection.execute("SELECT {braces}")
    assert str(caught.value) == 'database x: unrecognized token: "{"'


def test_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 4_000_000_001)
    assert user() == "uid 4000000001"
