"""What the store promises, on SQLite and on PostgreSQL alike."""

import logging
import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from stsguard.core.errors import StoreUnavailable
from stsguard.core.policycache import StoredPolicy
from stsguard.names import Domain
from stsguard.store import hosting_schema, received_schema  # noqa: F401 (its tables are in the same metadata)
from stsguard.store.access import NOT_OPEN
from stsguard.store.database import open_database
from stsguard.store.policies import PolicyStoreSql
from stsguard.store.versions import MIGRATIONS, VERSION_TABLE
from tests.integration.store.conftest import OpenStore
from tests.integration.store.examples import NOW, stored

A = Domain.parse("a.example")


async def all_of(store: PolicyStoreSql, limit: int = 1000) -> list[StoredPolicy]:
    found: list[StoredPolicy] = []
    while page := await store.load_policies(found[-1].policy_domain if found else None, limit):
        found += page
    return found


def execute(url: str, *statements: str) -> None:
    """Change the database behind the store's back."""
    database = open_database(url)
    try:
        with database.writing() as connection:
            for statement in statements:
                connection.execute(statement)
    finally:
        database.close()


async def test_policy_comes_back_as_it_was_saved(store: PolicyStoreSql) -> None:
    policies = [
        stored("a.example", age=timedelta(days=3), used=timedelta(microseconds=1)),
        # Blank lines, an extension in UTF-8, trailing white space: policy-string needs the lines as served.
        stored("b.example", body="version: STSv1\nmode: none \nmax_age: 1\nx: Grüße %d ' \"\n\n\n".encode()),
        stored(
            "c.example", body=b"version: STSv1\nmode: testing\nmx: mx.c.example\nmx: *.d.example\nmax_age: 31557600"
        ),
        replace(stored("d.example"), fetched_at=datetime(1970, 1, 1, tzinfo=UTC)),
        replace(stored("e.example"), fetched_at=datetime(2999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)),
    ]
    await store.save_policies(policies)
    assert [await store.load_policy(each.policy_domain) for each in policies] == policies
    assert await all_of(store) == policies
    assert await store.load_policy(Domain.parse("z.example")) is None


async def test_policies_outlive_the_store(store: PolicyStoreSql, new_store: OpenStore, url: str) -> None:
    await store.save_policies([stored("a.example")])
    await store.close()
    again = new_store(url)
    await again.open()
    assert await again.load_policy(A) == stored("a.example")


async def test_save_replaces_and_forget_deletes(store: PolicyStoreSql) -> None:
    await store.save_policies([stored("a.example", age=timedelta(hours=1)), stored("b.example")])
    newer = stored("a.example", record_id="2", body=b"version: STSv1\nmode: none\nmax_age: 60\n")
    await store.save_policies([newer])
    assert await all_of(store) == [newer, stored("b.example")]
    await store.forget_policies([A, Domain.parse("unknown.example")])
    assert await all_of(store) == [stored("b.example")]


async def test_later_one_of_a_domain_twice_in_one_batch_stays(store: PolicyStoreSql) -> None:
    newer, older = stored("a.example", record_id="2"), stored("a.example", record_id="1", age=timedelta(seconds=1))
    await store.save_policies([newer, older])
    assert await store.load_policy(A) == newer


async def test_policy_that_another_node_fetched_later_stays(
    store: PolicyStoreSql, new_store: OpenStore, url: str
) -> None:
    other = new_store(url)
    await other.open()
    await other.save_policies([stored("a.example", record_id="2")])
    await store.save_policies([stored("a.example", record_id="1", age=timedelta(seconds=1)), stored("b.example")])
    assert await all_of(store) == [stored("a.example", record_id="2"), stored("b.example")]


async def test_policy_from_a_clock_that_ran_ahead_does_not_keep_later_ones_out(store: PolicyStoreSql) -> None:
    await store.save_policies([stored("a.example", record_id="1", age=-timedelta(days=3650))])
    await store.save_policies([stored("a.example", record_id="2")])
    found = await store.load_policy(A)
    assert found is not None
    assert (found.record_id, found.fetched_at) == ("2", NOW)


async def test_last_use_only_moves_forward(store: PolicyStoreSql) -> None:
    await store.save_policies([stored("a.example", used=timedelta(hours=1))])
    await store.save_policies([stored("a.example", record_id="2", used=timedelta(hours=4))])
    assert await store.load_policy(A) == stored("a.example", record_id="2", used=timedelta(hours=1))
    assert len(await all_of(store)) == 1


async def test_nothing_to_do_is_no_error(store: PolicyStoreSql) -> None:
    await store.save_policies([])
    await store.forget_policies([])
    assert await store.load_policies(None, 10) == []


async def test_pages_come_in_the_order_of_octets(store: PolicyStoreSql) -> None:
    # A locale's order would pass over punctuation and mix these up.
    names = sorted(
        ["a-b.example", "a.b.example", "a.example", "a0.example", "ab.example", "_x.example", "xn--a.example"]
    )
    await store.save_policies([stored(name) for name in random.sample(names, len(names))])
    for limit in (1, 2, 3, 7, 8):
        assert [each.policy_domain for each in await all_of(store, limit)] == names
    assert [each.policy_domain for each in await store.load_policies(Domain.parse("a.b"), 2)] == names[2:4]


BAD_ROWS = [
    ("mode = 'testing'", "mode testing and max_age 604800 are not those of the policy text"),
    ("max_age = 1", "mode enforce and max_age 1 are not those of the policy text"),
    ("policy_text = 'version: STSv1'", "there is no 'mode'"),
    ("policy_text = ''", "the file is empty"),
    ("last_used_at = 9000000000000000000", "date value out of range"),
]


async def test_only_postgresql_holds_what_others_store(store: PolicyStoreSql, url: str) -> None:
    await store.save_policies([stored("a.example")])
    await all_of(store, 10)
    assert store.may_hold_more(A) is store.may_hold_more(Domain("b.example")) is not url.startswith("sqlite")


@pytest.mark.parametrize(("change", "reason"), BAD_ROWS)
async def test_row_that_no_longer_parses_is_reported_skipped_and_kept(
    store: PolicyStoreSql, url: str, change: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"{letter}.example" for letter in "abcd"]
    await store.save_policies([stored(name) for name in names])
    execute(url, f"UPDATE policies SET {change} WHERE policy_domain IN ('a.example', 'c.example')")  # noqa: S608
    with caplog.at_level(logging.ERROR, "stsguard"):
        for limit in (1, 2, 3, 4):
            assert [each.policy_domain for each in await all_of(store, limit)] == ["b.example", "d.example"]
    fields = [record.__dict__["fields"] for record in caplog.records]
    assert {record.message for record in caplog.records} == {"stored policy can't be read"}
    assert {each["policy_domain"] for each in fields} == {"a.example", "c.example"}
    assert all(each["reason"].endswith(reason) for each in fields), fields
    # For the one domain it is no "there is none": an enforce policy may have been there.
    assert store.may_hold_more(A)
    with pytest.raises(StoreUnavailable) as caught:
        await store.load_policy(A)
    assert str(caught.value) == f"what is stored for a.example is no policy: {fields[0]['reason']}"
    await store.save_policies([stored("a.example")])
    assert await store.load_policy(A) == stored("a.example")


async def test_every_call_on_a_closed_store_says_so(new_store: OpenStore, url: str) -> None:
    store = new_store(url)
    calls = (
        partial(store.load_policy, A),
        partial(store.load_policies, None, 1),
        partial(store.save_policies, [stored("a.example")]),
        partial(store.forget_policies, [A]),
    )
    for reason in (NOT_OPEN, "the store is closed"):
        for call in calls:
            with pytest.raises(StoreUnavailable, match=f"^{reason}$"):
                await call()
        assert store.problem == reason
        await store.open()
        assert store.problem is None
        await store.open()  # no effect
        await store.close()


async def test_hundred_thousand_policies(store: PolicyStoreSql) -> None:
    policies = [stored(f"d{number:06}.example") for number in range(100_000)]
    for start in range(0, len(policies), 20_000):
        await store.save_policies(policies[start : start + 20_000])
    await store.save_policies([replace(each, record_id="2") for each in policies[::2]])
    after, count = None, 0
    while page := await store.load_policies(after, 5000):
        assert [each.policy_domain for each in page] == [
            each.policy_domain for each in policies[count : count + len(page)]
        ]
        assert {each.record_id for each in page[::2]} == {"2"}
        after, count = page[-1].policy_domain, count + len(page)
    assert count == 100_000


def test_migrations_make_the_schema_that_the_program_uses(url: str) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE, "compare_type": True})
        return list(compare_metadata(context, hosting_schema.metadata))

    database = open_database(url)
    try:
        with database.alchemy.writing() as connection:
            assert differences(connection) == []
            connection.execute(text("ALTER TABLE policies ADD COLUMN extra INTEGER"))
            assert len(differences(connection)) == 1  # it would have been noticed
    finally:
        database.close()


def test_known_revisions_are_those_of_the_directory() -> None:
    found = ScriptDirectory(str(MIGRATIONS.directory)).walk_revisions()
    assert tuple(each.revision for each in found) == MIGRATIONS.revisions[::-1]
    assert Path(MIGRATIONS.directory).is_dir()
