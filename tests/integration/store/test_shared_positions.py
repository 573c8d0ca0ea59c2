"""Two nodes over one PostgreSQL, each with a mail log of the same syslog_name: neither moves the other's position."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from sqlalchemy import make_url

from stsguard.store.upgrade import upgrade_database
from tests.integration.log_site import DELIVERED, ESTABLISHED, log_site
from tests.integration.store.postgres import Cluster

NODES = ("mta1", "mta2")
LIMIT_SECONDS = 60.0
OF_BOTH = [f"{node}/{kind}:postfix" for node in NODES for kind in ("log", "memory")]
WAITING = [f"{node}/waiting:postfix example.com:25" for node in NODES]
POSITIONS = 'SELECT log FROM log_positions ORDER BY log COLLATE "C"'
COUNTED = "SELECT sum(successes) FROM session_counters WHERE report_domain = 'example.com'"


@pytest.mark.skipif(os.geteuid() != 0, reason="a host name of its own needs root")
async def test_two_nodes_with_one_syslog_name_count_all_once_over_kill_9(postgres: Cluster, tmp_path: Path) -> None:
    url = postgres.new_database()
    upgrade_database(url)

    async def found(query: str) -> list[str]:
        printed = await asyncio.to_thread(postgres.sql, query, database=make_url(url).database or "")
        return printed.splitlines()

    async def until(query: str, expected: list[str]) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while (last := await found(query)) != expected:
            assert time.monotonic() < limit, last

    directories = [tmp_path / node for node in NODES]
    for directory in directories:
        directory.mkdir()
    async with (
        log_site(directories[0], store_url=url, node=NODES[0]) as one,
        log_site(directories[1], store_url=url, node=NODES[1]) as two,
    ):
        for site in (one, two):
            site.start()
        # What is written before a node has looked at its log for the first time does not count.
        await until(POSITIONS, OF_BOTH)
        one.deliver(1, 3)
        one.write(ESTABLISHED, 7, 7)
        two.deliver(1, 2)
        await until(POSITIONS, sorted(OF_BOTH + WAITING))
        for site in (one, two):
            site.kill()
        one.deliver(4, 5)
        one.write(DELIVERED, 7, 7)
        two.deliver(3, 9)
        for site in (one, two):
            site.answering = True
            site.start()
        await until(COUNTED, [str(6 + 9)])
        await until(POSITIONS, OF_BOTH)
        assert await found(COUNTED) == [str(6 + 9)]
