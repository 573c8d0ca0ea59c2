"""What the store of our own domains promises, on SQLite and on PostgreSQL alike."""

import asyncio
import logging
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from stsguard.core.errors import StoreUnavailable
from stsguard.core.hosted import HistoryEvent, HostedDomain, Stage
from stsguard.core.mtasts import Mode, MxPattern
from stsguard.names import Domain
from stsguard.store.database import open_database
from stsguard.store.stores import Stores
from tests.integration.store.conftest import OpenStores
from tests.integration.store.examples import NOW
from tests.integration.store.hosting import event, hosted, version
from tests.integration.store.test_disk import needs_root, small_file_system

ROOT = Path(__file__).parents[3]
A, B = (Domain.parse(f"{letter}.example") for letter in "ab")
MANY = 10_000
LOADED_WITHIN_SECONDS = 20.0  # it takes 1 to 2 s; a query a domain would take minutes


async def saved(stores: Stores, domain: HostedDomain, *events: HistoryEvent) -> HostedDomain:
    made = await stores.domains.save_domain(domain, events)
    assert made is not None
    return made


async def test_domain_comes_back_as_it_was_saved(stores: Stores) -> None:
    instants = {"quiet_since": NOW, "record_gone_at": NOW + timedelta(microseconds=1)}
    versions = (
        version(0, served_at=NOW, published_at=NOW, record_ttl=3600, mode=Mode.ENFORCE, max_age=31557600),
        version(1, mode=Mode.NONE, mx_patterns=(), max_age=0),
    )
    domain = hosted("a.example", *versions, stage=Stage.RETIRING, alias_of=B, **instants)
    assert await stores.domains.load_domain(A) is None
    assert await stores.domains.revision() == 0
    made = await saved(stores, domain, event("added"), event("retiring"))
    assert made == replace(domain, revision=1)
    assert await stores.domains.load_domain(A) == made
    assert await stores.domains.load_history(A) == [event("added"), event("retiring")]
    assert await stores.domains.load_history(B) == []


async def test_every_change_has_the_next_revision_and_is_found_by_it(stores: Stores) -> None:
    first, second = await saved(stores, hosted("b.example")), await saved(stores, hosted("a.example"))
    assert (first.revision, second.revision) == (1, 2)
    assert await stores.domains.load_domains() == [second, first]
    assert await stores.domains.load_domains(1) == [second]
    assert await stores.domains.load_domains(2) == []
    third = await saved(stores, replace(first, versions=(*first.versions, version(2))), event())
    assert await stores.domains.revision() == third.revision == 3
    assert await stores.domains.load_domains(2) == [third]


async def test_save_on_an_older_state_changes_nothing(stores: Stores) -> None:
    first = await saved(stores, hosted(), event())
    second = await saved(stores, replace(first, stage=Stage.ENFORCE))
    for late in (hosted(), first, replace(first, revision=9), replace(hosted("b.example"), revision=1)):
        assert await stores.domains.save_domain(late, [event("late")]) is None
    assert await stores.domains.load_domains() == [second]
    assert await stores.domains.load_history(A) == [event()]
    assert await stores.domains.revision() == 2


async def test_times_may_be_filled_in_taken_back_and_corrected(stores: Stores) -> None:
    domain = await saved(stores, hosted())
    for changes in (
        {"served_at": NOW},
        {"served_at": None},
        {"served_at": NOW + timedelta(days=1), "published_at": NOW + timedelta(days=2), "record_ttl": 300},
        {"served_at": NOW, "published_at": NOW, "created_at": NOW, "record_ttl": 86400},
    ):
        domain = await saved(stores, replace(domain, versions=(replace(domain.current, **changes),)))  # type: ignore[arg-type] # as named
        assert await stores.domains.load_domain(A) == domain


REWRITTEN = [
    ({"record_id": "1"}, "record_id of version 1, '20260301120001', would become '1'"),
    ({"mode": Mode.ENFORCE}, "mode of version 1, 'testing', would become 'enforce'"),
    ({"max_age": 1}, "max_age of version 1, 86400, would become 1"),
    ({"mx_patterns": (MxPattern.parse("b.example"),)}, "mx of version 1, "),
    ({"reason": "x"}, "reason of version 1, 'added', would become 'x'"),
    ({"published_at": None}, "published_at of version 1, "),
    ({"record_ttl": 59}, "record_ttl of version 1, 60, would become 59"),
]


@pytest.mark.parametrize(("changes", "message"), REWRITTEN)
async def test_version_that_was_served_is_never_rewritten(
    stores: Stores, changes: dict[str, object], message: str
) -> None:
    first = await saved(stores, hosted("a.example", version(served_at=NOW, published_at=NOW, record_ttl=60)))
    wrong = replace(first, stage=Stage.ENFORCE, versions=(replace(first.current, **changes), version(2)))  # type: ignore[arg-type] # as named
    with pytest.raises(ValueError, match=f"^a.example: {message}"):
        await stores.domains.save_domain(wrong, [event()])
    assert await stores.domains.load_domains() == [first]
    assert await stores.domains.load_history(A) == []
    assert await stores.domains.revision() == 1


async def test_version_is_never_lost_or_slipped_in(stores: Stores) -> None:
    first = await saved(stores, hosted("a.example", version(1), version(3)))
    for versions, message in [
        ((version(3),), "version 1, which is stored, would be lost"),
        ((version(1), version(4)), "version 3, which is stored, would be lost"),
        ((version(1), version(2), version(3)), "version 2 would come before one that is stored"),
        ((version(3), version(1)), "its versions are not in the order of their numbers"),
        ((version(1), version(3), version(3)), "its versions are not in the order of their numbers"),
    ]:
        with pytest.raises(ValueError, match=f"^a.example: {message}$"):
            await stores.domains.save_domain(replace(first, versions=versions), [])
    assert await stores.domains.load_domains() == [first]


async def test_texts_are_one_line(stores: Stores) -> None:
    made = await saved(stores, hosted("a.example", version(reason="a\nb\x00")), HistoryEvent(NOW, "x\r", "y\x1b[2J"))
    assert made.current.reason == "a b "
    assert await stores.domains.load_domain(A) == made
    assert await stores.domains.load_history(A) == [HistoryEvent(NOW, "x ", "y [2J")]
    again = await saved(stores, replace(made, stage=Stage.ENFORCE))
    assert again.revision == 2


async def test_of_two_writers_at_once_one_is_first(stores: Stores, new_stores: OpenStores, url: str) -> None:
    other = await new_stores(url)
    domain = await saved(stores, hosted())
    for number in range(2, 22):
        following = replace(domain, versions=(*domain.versions, version(number)))
        both = await asyncio.gather(
            *(each.domains.save_domain(following, [event(str(number))]) for each in (stores, other))
        )
        (domain,) = (made for made in both if made is not None)
        assert domain.revision == number
    assert await other.domains.load_domain(A) == domain
    assert [each.what for each in await stores.domains.load_history(A)] == [str(number) for number in range(2, 22)]


async def test_who_follows_the_revisions_misses_no_change(stores: Stores, new_stores: OpenStores, url: str) -> None:
    """Four writers of domains of their own; the reader always asks for what is after the highest it has seen."""
    writers = [await new_stores(url) for _ in range(4)]
    seen: dict[Domain, int] = {}
    done = asyncio.Event()

    async def write(at: int) -> None:
        domain = hosted(f"d{at}.example")
        for number in range(1, 16):
            domain = await saved(
                writers[at], replace(domain, versions=(*domain.versions[: number - 1], version(number)))
            )

    async def follow() -> None:
        highest, last = 0, False
        while not last:
            last = done.is_set()
            for domain in await stores.domains.load_domains(highest):
                assert len(domain.versions) > seen.get(domain.policy_domain, 0)
                seen[domain.policy_domain] = len(domain.versions)
                highest = max(highest, domain.revision)

    async with asyncio.TaskGroup() as group:
        group.create_task(follow())
        async with asyncio.TaskGroup() as writing:
            for at in range(4):
                writing.create_task(write(at))
        done.set()
    assert seen == {Domain.parse(f"d{at}.example"): 15 for at in range(4)}


KILLED = """
import asyncio, sys
from dataclasses import replace
from stsguard.store.stores import open_stores
from tests.integration.store.hosting import event, hosted, version
async def main():
    stores = open_stores(sys.argv[1])
    await stores.domains.open()
    domain = await stores.domains.save_domain(hosted(), [event("1")])
    for number in range(2, 10**6):
        domain = replace(domain, versions=(*domain.versions, version(number)))
        domain = await stores.domains.save_domain(domain, [event(str(number))])
        print(number, flush=True)
asyncio.run(main())
"""


def killed_writer(url: str, lines: int) -> int:
    """The number of the last version that another process said it had saved before it was killed in the next."""
    command = [sys.executable, "-c", KILLED, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as writer:
        assert writer.stdout is not None
        said = [writer.stdout.readline() for _ in range(lines)]
        writer.kill()
        # The pipe may end in the middle of a number.
        return int([*said, *writer.stdout.read().splitlines(keepends=True)[:-1]][-1])


async def test_kill_9_leaves_all_of_a_change_or_nothing(url: str, new_stores: OpenStores) -> None:
    last = await asyncio.to_thread(killed_writer, url, 20)
    stores = await new_stores(url)
    domain = await stores.domains.load_domain(A)
    assert domain is not None
    assert len(domain.versions) >= last
    assert [each.number for each in domain.versions] == [*range(1, len(domain.versions) + 1)]
    assert domain.revision == await stores.domains.revision() == len(domain.versions)
    assert [each.what for each in await stores.domains.load_history(A)] == [
        str(number) for number in range(1, len(domain.versions) + 1)
    ]
    # What it leaves can be gone on with at once.
    await saved(stores, replace(domain, versions=(*domain.versions, version(10**6))), event())


def fill(url: str) -> None:
    """Ten thousand domains of three versions, written as no command would: all at once."""
    database = open_database(url)
    domains = (
        "INSERT INTO hosted_domains (policy_domain, stage, stage_since, added_at, revision) "
        "VALUES (:name, 'testing', 1, 1, :revision)"
    )
    versions = (
        "INSERT INTO policy_versions (policy_domain, number, record_id, mode, max_age, mx, created_at, reason, "
        "record_ttl) VALUES (:name, :number, '20260301', 'testing', 86400, :mx, 1, 'added', 0)"
    )
    names = [f"d{at:05}.example" for at in range(MANY)]
    with database.writing() as connection:
        connection.execute_many(domains, [{"name": name, "revision": at} for at, name in enumerate(names, 1)])
        connection.execute_many(
            versions,
            [
                {"name": name, "number": number, "mx": f"mx1.{name}\nmx2.{name}"}
                for name in names
                for number in range(1, 4)
            ],
        )
        connection.execute("INSERT INTO hosting_revision VALUES (1, :last)", {"last": MANY})
    database.close()


async def test_ten_thousand_domains_are_loaded_in_bounded_time_and_one_change_at_once(stores: Stores, url: str) -> None:
    await asyncio.to_thread(fill, url)
    begun = time.monotonic()
    domains = await stores.domains.load_domains()
    assert time.monotonic() - begun < LOADED_WITHIN_SECONDS
    assert len(domains) == MANY
    assert all(len(domain.versions) == 3 for domain in domains)
    changed = await saved(stores, replace(domains[77], versions=(*domains[77].versions, version(4))))
    begun = time.monotonic()
    assert await stores.domains.load_domains(MANY) == [changed]
    assert await stores.domains.revision() == MANY + 1
    assert time.monotonic() - begun < LOADED_WITHIN_SECONDS / 10


@needs_root
async def test_full_disk_is_reported_and_leaves_the_domain_as_it_was(tmp_path: Path, new_stores: OpenStores) -> None:
    with small_file_system(tmp_path / "small") as directory:
        stores = await new_stores(f"sqlite:///{directory}/stsguard.db")
        first = await saved(stores, hosted(), event())
        filler, free = directory / "filler", os.statvfs(directory)
        filler.write_bytes(bytes(free.f_bavail * free.f_bsize))
        many = replace(first, versions=(*first.versions, *(version(number) for number in range(2, 3000))))
        with pytest.raises(StoreUnavailable, match=r"no space left on its disk$"):
            await stores.domains.save_domain(many, [event("many")])
        assert await stores.domains.load_domains() == [first]
        assert await stores.domains.load_history(A) == [event()]
        filler.unlink()
        assert await saved(stores, many) == replace(many, revision=2)
        await stores.domains.close()


DAMAGED = [
    ("UPDATE hosted_domains SET stage = 'x' WHERE policy_domain = 'a.example'", "'x' is not a valid Stage"),
    ("UPDATE policy_versions SET mode = 'x' WHERE policy_domain = 'a.example'", "'x' is not a valid Mode"),
    ("UPDATE policy_versions SET mx = '-' WHERE policy_domain = 'a.example'", "is not a label"),
    ("DELETE FROM policy_versions WHERE policy_domain = 'a.example'", "it has no version"),
    (
        "UPDATE policy_versions SET created_at = 9000000000000000000 WHERE policy_domain = 'a.example'",
        "date value out of range",
    ),
]


@pytest.mark.parametrize(("statement", "reason"), DAMAGED)
async def test_damaged_domain_is_reported_and_the_others_are_loaded(
    stores: Stores, url: str, caplog: pytest.LogCaptureFixture, statement: str, reason: str
) -> None:
    await saved(stores, hosted("a.example"))
    good = await saved(stores, hosted("b.example"))
    database = open_database(url)
    with database.writing() as connection:
        connection.execute(statement)
    database.close()
    with caplog.at_level(logging.ERROR):
        assert await stores.domains.load_domains() == [good]
    (said,) = [record for record in caplog.records if record.message == "stored row can't be read"]
    assert reason in str(said.__dict__["fields"]["reason"])
    with pytest.raises(StoreUnavailable, match=r"^what is stored can't be read: domain 'a.example': "):
        await stores.domains.load_domain(A)


async def test_store_that_is_not_open_says_so(stores: Stores) -> None:
    await stores.domains.close()
    with pytest.raises(StoreUnavailable, match="the store is closed"):
        await stores.domains.revision()
    await stores.findings.open()
    assert await stores.domains.revision() == 0
