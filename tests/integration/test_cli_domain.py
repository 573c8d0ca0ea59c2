"""`stsguard domain` on a real database, with real DNS and a real Policy Host: what an admin reads, and exit codes."""

import asyncio
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from stsguard.core.findings import MX_UNUSED, HostingFinding, Severity
from stsguard.core.hosted import CertificateState, HostedDomain, PolicyFetchRow
from stsguard.core.rollout_evidence import published, served
from stsguard.core.rollout_table import Change
from stsguard.names import Domain
from tests.integration.hosting_site import ENFORCING, HOST, MX, NAME, RECORD, Site, hosting_site

A = Domain.parse(NAME)
NONE = b"version: STSv1\r\nmode: none\r\nmax_age: 86400\r\n"
EXPIRED = HostingFinding("mx-failing", "mx1.a.example", Severity.ERROR, "its certificate has run out\x1b[2J")


async def note(site: Site, *evidence: Callable[[HostedDomain], Change]) -> HostedDomain:
    """What the steward notes once it has seen it."""
    async with site.stores() as stores:
        domain = await stores.domains.load_domain(A)
        for transition in evidence:
            assert domain is not None
            changed, event = transition(domain)
            domain = await stores.domains.save_domain(changed, [event])
        assert domain is not None
        return domain


async def note_served_and_published(site: Site) -> HostedDomain:
    now = datetime.now(UTC)
    return await note(
        site,
        lambda domain: served(domain, domain.current.number, now),
        lambda domain: published(domain, domain.current.number, 300, now),
    )


async def test_domain_without_a_policy_begins_in_testing(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        nothing = await site.run("list")
        assert (nothing.exit_code, "there is none. Either nothing has been stored yet" in nothing.output) == (3, True)
        async with site.stores():
            assert await site.ok("list") == "no domain is hosted here; stsguard domain add DOMAIN adds one\n"
        out = await site.ok("add", "A.Example.", "--mx-from-dns")
        assert out.startswith("a.example is hosted here, in testing: no policy is in force yet\n\nnext\n")
        assert "\nundo\n  stsguard domain retire a.example\n" in out
        shown = await site.json("show", NAME)
        assert (shown["stage"], shown["mode"], shown["max_age"]) == ("testing", "testing", 86400)
        assert shown["mx"] == ["mx1.a.example", "mx2.a.example"]
        assert (shown["version"], shown["next"]["action"]) == (1, "fetch back")
        assert (await site.ok("list")).splitlines()[1].split() == [
            NAME,
            "testing",
            "testing",
            "86400",
            "-",
            "fetch",
            "back",
        ]


async def test_live_policy_is_taken_over_as_it_is(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        out = await site.ok("add", NAME)
        assert out.startswith("a.example is hosted here, in enforce: with the policy that it has already\n")
        assert "warning: no mx of the policy permits mx2.a.example: " in out
        assert "while it points to the host of before, nothing has changed" in out
        (version,) = (await site.json("show", NAME))["versions"]
        assert (version["number"], version["id"], version["mode"]) == (0, "20200101000000", "enforce")
        assert (version["max_age"], version["mx"]) == (604800, ["mx1.a.example", "*.old.example"])
        assert version["record_ttl"] == 600
        assert version["published_at"] is not None


async def test_live_none_policy_is_no_policy_but_is_remembered(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=NONE) as site:
        await site.ok("add", NAME, "--mx", "mx1.a.example, mx2.a.example.")
        shown = await site.json("show", NAME)
        assert [(each["number"], each["mode"]) for each in shown["versions"]] == [(0, "none"), (1, "testing")]


async def test_policy_that_cant_be_seen_is_not_weakened_unless_forced(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST) as site:
        refused = await site.run("add", NAME, "--mx-from-dns")
        assert refused.exit_code == 3
        assert (
            "has a record with id 20200101000000, but its policy can't be fetched (connection-refused" in refused.output
        )
        assert await site.ok("list") == "no domain is hosted here; stsguard domain add DOMAIN adds one\n"
        await site.ok("add", NAME, "--mx-from-dns", "--force", "the old host is gone")
        assert "(forced: the old host is gone)" in await site.ok("history", NAME)


async def test_dns_that_does_not_answer_is_exit_3(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        site.nameserver.handler = lambda _query, _over_tcp: []
        refused = await site.run("add", NAME, "--mx-from-dns")
        assert refused.exit_code == 3
        assert "the record of a.example can't be looked up: " in refused.output
        forced = await site.run("add", NAME, "--mx-from-dns", "--force", "now")
        assert (forced.exit_code, "--force does not help here" in forced.output) == (3, True)
        assert "nothing is changed" in refused.output


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("add", "a b"), 2, "is not a label of a host name"),
        (("add", "192.0.2.1"), 2, "this is an IPv4 address, not a name"),
        (("add", "localhost"), 1, "a single label"),
        (("add", "_x.example"), 1, "an underscore"),
        (("add", f"{'a.' * 123}example"), 1, "there can be no mta-sts."),
        (("add", "b.example"), 1, "a policy needs at least one mx; give --mx or --mx-from-dns"),
        (("add", "b.example", "--mx", "**.b.example"), 2, "'*' that is not the whole first label"),
        (("add", "b.example", "--mx", "mx.b.example", "--mx-from-dns"), 2, "give one of --mx,"),
        (("add", "b.example", "--alias-of", "c.example"), 1, "c.example is not hosted here"),
        (("add", NAME), 1, "a.example is hosted already, in testing; stsguard domain show a.example"),
        (("show", "b.example"), 1, "b.example is not hosted here; stsguard domain add b.example"),
        (("history", "b.example"), 1, "b.example is not hosted here"),
        (("edit", NAME), 2, "give either --mx, or --mx-from-dns,"),
        (("edit", NAME, "--remove-mx", "x.example"), 1, "its policy has no mx x.example"),
        (("edit", NAME, "--mx", "mx1.a.example"), 1, "these are the mx that it has"),
        (("edit", "b.example", "--mx-from-dns"), 1, "stsguard domain add b.example adds it"),
        (("mode", NAME, "testing"), 0, "a.example is already in testing\n"),
        (("mode", NAME, "none"), 2, "'none'"),
        (("mode", NAME, "enforce"), 1, "a.example stays in testing, which is safe"),
        (("mode", NAME, "enforce", "--force", "x"), 1, "give --confirm a.example. Nothing was changed"),
        (("mode", "b.example", "enforce"), 1, "b.example is not hosted here"),
        (("readiness", NAME), 1, "not ready to enforce"),
        (("readiness", "b.example"), 1, "b.example is not hosted here"),
        (("dns", "b.example"), 1, "b.example is not hosted here"),
        (("retire", "b.example"), 1, "b.example is not hosted here"),
        (("retire", NAME), 1, "give --confirm a.example. Nothing was changed"),
        (("retire", NAME, "--confirm", "b.example"), 1, "'b.example' is not a.example; nothing was changed"),
        (("edit", NAME, "--mx", "mx2.a.example", "--force", " "), 2, "say why; the reason is recorded"),
        (("remove", NAME), 2, "No such command"),
    ],
)
async def test_what_cant_be_done_is_refused_with_the_reason(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx", "mx1.a.example")
        before = await site.json("history", NAME)
        done = await site.run(*arguments)
        assert (done.exit_code, words in done.output) == (code, True), done.output
        assert await site.json("history", NAME) == before


async def test_mx_that_permit_no_host_in_dns_are_warned_of(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        out = await site.ok("add", NAME, "--mx", "mx.other.example")
        assert "warning: no mx of the policy permits any host in DNS MX (mx1.a.example, mx2.a.example)" in out
        out = await site.ok("add", "b.example", "--mx", "b.example")
        assert "warning: b.example has no MX records: senders deliver to b.example itself" in out


async def test_null_mx_permits_the_name_alone(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, "a.example. 300 IN MX 0 .") as site:
        assert "warning" not in await site.ok("add", NAME, "--mx-from-dns")
        assert (await site.json("show", NAME))["mx"] == [NAME]


async def test_alias_follows_its_target(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        await site.ok("add", "b.example", "--alias-of", NAME)
        assert (await site.json("show", "b.example"))["alias_of"] == NAME
        assert "followed by  b.example" in await site.ok("show", NAME)
        refused = await site.run("retire", NAME, "--confirm", NAME)
        assert (refused.exit_code, "b.example follows it" in refused.output) == (1, True)
        refused = await site.run("edit", "b.example", "--mx", "mx.b.example")
        assert (refused.exit_code, "change that domain" in refused.output) == (1, True)


async def test_mx_is_added_to_the_policy_first_with_the_date_for_dns(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        await site.ok("add", NAME)
        await note(site, lambda domain: served(domain, 0, datetime.now(UTC)))
        plan = await site.ok("edit", NAME, "--add-mx", "mx3.a.example", "--plan")
        assert "nothing was changed; without --plan the policy is changed, and DNS is left to you" in plan
        assert (await site.json("show", NAME))["version"] == 0
        out = await site.ok("edit", NAME, "--add-mx", "mx3.a.example")
        assert "1. [safe now] add mx3.a.example to the policy" in out
        date = datetime.now(UTC) + timedelta(days=7)
        assert re.search(rf"2\. \[not yet\] add mx3.a.example to DNS MX 7 days .* not before {date:%Y-%m-%d}", out)
        undo = "undo\n  stsguard domain edit a.example --mx mx1.a.example --mx *.old.example"
        assert f"{undo}, once an inspection has seen that no MX host needs what was added\n" in out
        changed = await site.json("show", NAME)
        assert changed["mx"] == ["mx1.a.example", "*.old.example", "mx3.a.example"]
        assert changed["id"] > "20200101000000"


async def test_mx_in_use_is_not_taken_out_of_the_policy(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        await site.ok("add", NAME)
        for more in ((), ("--plan",)):
            refused = await site.run("edit", NAME, "--remove-mx", "mx1.a.example", *more)
            assert refused.exit_code == 1
            assert (
                "mx1.a.example is in DNS MX and would no longer be permitted. Take it out of DNS first"
                in refused.output
            )
        await site.ok("edit", NAME, "--mx", "mx2.a.example", "--force", "agreed by telephone")
        assert "(forced: agreed by telephone)" in await site.ok("history", NAME)


async def test_mx_that_no_host_uses_may_go_when_the_ttl_is_over(tmp_path: Path) -> None:
    unused = HostingFinding(MX_UNUSED, "*.old.example", Severity.NOTE, "no MX host matches it")
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        await site.ok("add", NAME)
        refused = await site.run("edit", NAME, "--remove-mx", "*.old.example")
        assert "nobody knows since when *.old.example is unused" in refused.output
        async with site.stores() as stores:
            await stores.findings.save_findings(A, [unused], datetime.now(UTC) - timedelta(hours=1))
        await site.ok("edit", NAME, "--remove-mx", "*.old.example")
        assert (await site.json("show", NAME))["mx"] == ["mx1.a.example"]


async def test_plan_that_would_be_refused_says_so_and_undo_of_an_edit_in_testing_works(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        refused = await site.run("edit", NAME, "--remove-mx", "mx2.a.example", "--plan")
        assert "\nnot now: a.example: mx2.a.example is in DNS MX" in refused.output
        assert refused.output.endswith("nothing was changed, and without --plan it would be refused\n")
        out = await site.ok("edit", NAME, "--add-mx", "mx7.a.example")
        undo = out.splitlines()[-1].split()
        assert undo[:3] == ["stsguard", "domain", "edit"]
        await site.ok(*undo[2:])
        assert (await site.json("show", NAME))["mx"] == ["mx1.a.example", "mx2.a.example"]


async def test_alias_in_testing_leaves_its_target_and_says_so(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        for alias in ("b.example", "c.example"):
            await site.ok("add", alias, "--alias-of", NAME)
        refused = await site.run("retire", NAME, "--confirm", NAME)
        assert "b.example, c.example follow it; retire each of them first" in refused.output
        out = await site.ok("mode", "b.example", "testing")
        assert out.startswith("b.example is already in testing\nit no longer follows a.example, and keeps the mx")
        assert "no longer follows a.example" in await site.ok("history", "b.example")
        out = await site.ok("retire", "c.example", "--confirm", "c.example")
        assert "\nit no longer follows a.example\n" in out
        assert "mode c.example testing, with a policy of its own: it does not follow a.example again" in out
        assert "retire, from testing; no longer follows a.example" in await site.ok("history", "c.example")
        await site.ok("retire", NAME, "--confirm", NAME)


async def test_back_to_testing_is_one_command_without_questions(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        await site.ok("add", NAME)
        out = await site.ok("mode", NAME, "testing")
        assert out.startswith("a.example is in testing, max_age 86400 s (1 d 0 h)\n")
        assert "senders that fetch from now on hold no mail back" in out
        assert (await site.json("show", NAME))["stage"] == "testing"


async def test_retire_is_the_only_way_out_and_can_be_taken_back(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX, RECORD, HOST, policy=ENFORCING) as site:
        await site.ok("add", NAME)
        out = await site.ok("retire", NAME, "--confirm", "A.example.")
        assert out.startswith("a.example is retiring: mode none is served\n")
        date = datetime.now(UTC) + timedelta(days=7)
        assert f"senders may hold a policy until {date:%Y-%m-%d}" in out
        assert "undo\n  stsguard domain mode a.example testing\n" in out
        await note_served_and_published(site)
        shown = await site.json("show", NAME)
        assert (shown["stage"], shown["next"]["action"]) == ("retiring", "wait until")
        assert shown["next"]["until"].startswith(f"{date:%Y-%m-%d}")
        assert f"wait until {date:%Y-%m-%d}" in await site.ok("list")
        refused = await site.run("retire", NAME, "--confirm", NAME)
        assert (refused.exit_code, "on its way out already" in refused.output) == (1, True)
        await site.ok("mode", NAME, "testing")
        assert (await site.json("show", NAME))["mx"] == ["mx1.a.example", "*.old.example"]


async def test_id_is_shown_only_when_the_policy_is_served_everywhere(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        before = await site.ok("show", NAME)
        assert "IN TXT" not in before
        assert "leave the _mta-sts record as it is until it has" in before
        domain = await note(site, lambda domain: served(domain, 1, datetime.now(UTC)))
        record = f'_mta-sts.a.example. 300 IN TXT "v=STSv1; id={domain.current.record_id};"'
        assert record in await site.ok("show", NAME)
        assert "publish id" in await site.ok("list")
        site.config.write_text(site.config.read_text() + '[dns_update]\nserver = "127.0.0.1:1"\n')
        assert "stsguard inbound publishes id" in await site.ok("show", NAME)


async def test_show_tells_findings_certificate_and_who_fetches_safely_for_a_terminal(tmp_path: Path) -> None:
    now, today = datetime.now(UTC), datetime.now(UTC).date().isoformat()
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        assert "fetched by  nobody in the last 90 days" in await site.ok("show", NAME)
        rows = [PolicyFetchRow(today, A, f"agent {number}", "192.0.2.0/24", number) for number in range(1, 30)]
        state = CertificateState(
            A.child("mta-sts"), now, now + timedelta(days=90), now + timedelta(days=60), 2, now, "x"
        )
        async with site.stores() as stores:
            await stores.policy_fetches.add_policy_fetches(
                [*rows, PolicyFetchRow(today, A, "a\x1b]0;b\x07", "local", 99)]
            )
            await stores.certificates.save_certificate_state(state)
            await stores.findings.save_findings(A, [EXPIRED, HostingFinding("b", "", Severity.NOTE, "")], now)
            await stores.findings.save_findings(A, [EXPIRED], now + timedelta(hours=1))
        out = await site.ok("show", NAME)
        assert "\x1b" not in out
        assert "error: mx-failing mx1.a.example: its certificate has run out" in out
        assert "gone: b, from " in out
        assert f"fetched 534 times in the last 90 days, all of them on {today}" in out
        assert "agent 29" in out
        assert "agent 20" not in out
        assert re.search(r"435 +192\.0\.2\.0/24", out)
        assert f"certificate  until {now + timedelta(days=90):%Y-%m-%d}" in out
        assert "1 error" in await site.ok("list")
        shown = await site.json("show", NAME)
        assert shown["fetches"]["total"] == 534
        assert shown["certificate"]["failures"] == 2
        assert [each["gone_at"] is None for each in shown["findings"]] == [True, False]


async def test_history_is_the_oldest_first(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")
        await site.ok("edit", NAME, "--add-mx", "mx3.a.example")
        lines = (await site.ok("history", NAME)).splitlines()
        assert [re.split(r"  +", line)[1] for line in lines] == ["what", "added", "mx changed"]
        (latest,) = (await site.json("history", NAME, "--limit", "1"))["history"]
        assert latest["detail"] == "mx +mx3.a.example"


async def test_two_admins_at_once_both_get_their_change(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        await site.ok("add", NAME, "--mx-from-dns")

        async def add_mx(host: str) -> None:
            command = ["-m", "stsguard", "domain", "edit", NAME, "--add-mx", host, "--config", str(site.config)]
            process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
            await process.communicate()
            assert process.returncode == 0

        await asyncio.gather(*(add_mx(f"mx{number}.b.example") for number in range(3)))
        shown = await site.json("show", NAME)
        assert len(shown["mx"]) == 5
        assert shown["version"] == 4


async def test_database_that_cant_be_used_is_exit_3(tmp_path: Path) -> None:
    async with hosting_site(tmp_path, *MX) as site:
        (tmp_path / "stsguard.db").write_bytes(b"this is no database, and long enough to be looked at" * 50)
        for command in (("list",), ("show", NAME), ("add", NAME, "--mx-from-dns"), ("mode", NAME, "testing")):
            done = await site.run(*command)
            assert (done.exit_code, "the database can't be used" in done.output) == (3, True), done.output
