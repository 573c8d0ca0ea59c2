"""What one run of a scenario publishes, under names that no other run uses."""

from dataclasses import dataclass, field

import idna

from tests.lab.certificates import tlsa_3_1_1
from tests.lab.lab import Lab
from tests.lab.mx_servers import MxServer
from tests.lab.namespace import UNREACHABLE
from tests.lab.policy_hosts import ADDRESS, REFUSING_ADDRESS, SILENT_ADDRESS, PolicySite
from tests.lab.scenario_model import (
    MAIN_DAEMON,
    Addresses,
    Mx,
    MxLookup,
    PolicyHostAddress,
    Publication,
    Scenario,
    Site,
    Tlsa,
)
from tests.lab.zones import absolute

PRIVATE_ADDRESS = "10.11.12.13"
_TLSA_MISMATCHING = "3 1 1 " + "5a" * 32
_TLSA_UNUSABLE = "3 1 99 " + "5a" * 32
_POLICY_HOST_ADDRESSES = {
    PolicyHostAddress.GOOD: ADDRESS,
    PolicyHostAddress.PRIVATE: PRIVATE_ADDRESS,
    PolicyHostAddress.REFUSING: REFUSING_ADDRESS,
    PolicyHostAddress.UNREACHABLE: UNREACHABLE,
    PolicyHostAddress.SILENT: SILENT_ADDRESS,
}


@dataclass(slots=True)
class World:
    """The names and servers of one run. `tag` tells runs of the same scenario apart."""

    lab: Lab
    scenario: Scenario
    tag: str
    servers: dict[str, MxServer] = field(default_factory=dict)
    _owned: set[tuple[str, str]] = field(default_factory=set)

    @property
    def label(self) -> str:
        """The first label of the domain, as an A-label."""
        text = f"{self.scenario.unicode_label or self.scenario.name}-{self.tag}"
        return idna.encode(text).decode() if not text.isascii() else text

    @property
    def domain(self) -> str:
        """The recipient domain."""
        before = self.scenario.subdomain
        return f"{before}.{self.parent}" if before else self.parent

    @property
    def parent(self) -> str:
        """The domain without the scenario's subdomain; its second label leads Postfix to the daemon of its choice."""
        zone = "signed.test" if self.scenario.publication.signed else "plain.test"
        way = "" if self.scenario.daemon == MAIN_DAEMON else f"{self.scenario.daemon}."
        return f"{self.label}.{way}{zone}"

    @property
    def policy_host(self) -> str:
        """The policy host's name (RFC 8461 §3.3)."""
        return f"mta-sts.{self.domain}"

    def mx_zone(self, *, signed: bool = False) -> str:
        """What the names of this run's MX hosts end in."""
        return f"{self.label}.{'mxsigned' if signed else 'mxplain'}.test"

    def mx_hostname(self, name: str) -> str:
        """The name of the MX host that the scenario calls `name`: mx1, mx2 … in the order of the table."""
        publication = self.scenario.publication
        if publication.mx_lookup is MxLookup.NONE:
            return self.domain
        number = int(name.removeprefix("mx"))
        return self._hostname(number, publication.mx[number - 1])

    @property
    def has_alias(self) -> bool:
        """Whether an MX name is a CNAME, so that the host knows itself by another name."""
        return any(mx.alias for mx in self.scenario.publication.mx)

    def mx_names(self) -> list[str]:
        """What the scenario calls its MX hosts: mx1, mx2 …"""
        return [f"mx{number}" for number in range(1, len(self.scenario.publication.mx) + 1)]

    def fill(self, text: str) -> str:
        """`text` with the names of this run in their places."""
        names = {
            "domain": self.domain,
            "parent": self.parent,
            "DOMAIN": self.domain.upper(),
            "unicode": idna.decode(self.domain),
            "mx_zone": self.mx_zone(signed=any(mx.signed for mx in self.scenario.publication.mx)),
            **{name: self.mx_hostname(name) for name in self.mx_names()},
        }
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    async def publish(self, publication: Publication) -> None:
        """Publish this instead of what this run published before; `lab.dns.publish` makes it known."""
        zones = self.lab.dns.zones
        for owner, record_type in self._owned:
            zones.remove(owner, record_type)
            zones.unanswered.discard(owner)
        self._owned.clear()
        await self._publish_mx(publication)
        self._publish_record(publication)
        self._publish_site(publication.site)
        if publication.mx_lookup not in (MxLookup.FAILING, MxLookup.UNANSWERED):
            # Without a TLSRPT record Postfix 3.10 says nothing of its sessions.
            self.lab.dns.zones.put_txt(f"_smtp._tls.{self.domain}", f"v=TLSRPTv1; rua=mailto:tls@{self.domain}")
            self._owned.add((absolute(f"_smtp._tls.{self.domain}"), "TXT"))
        if publication.mx_lookup in (MxLookup.FAILING, MxLookup.UNANSWERED):
            self._fail(self.domain, unanswered=publication.mx_lookup is MxLookup.UNANSWERED)

    def _hostname(self, number: int, mx: Mx) -> str:
        return f"{mx.host or f'mx{number}'}.{self.mx_zone(signed=mx.signed)}"

    def _put(self, owner: str, record_type: str, *data: str) -> None:
        self.lab.dns.zones.put(owner, record_type, *data)
        self._owned.add((absolute(owner), record_type))

    def _fail(self, owner: str, *, unanswered: bool = False) -> None:
        self.lab.dns.zones.fail(owner, unanswered=unanswered)
        self._owned.add((absolute(owner), "NS"))

    async def _publish_mx(self, publication: Publication) -> None:
        targets = []
        for number, mx in enumerate(publication.mx, 1):
            implicit = publication.mx_lookup is MxLookup.NONE
            hostname = self.domain if implicit else self._hostname(number, mx)
            targets.append(f"{mx.preference} {hostname}.")
            await self._publish_host(hostname, mx)
        match publication.mx_lookup:
            case MxLookup.FOUND | MxLookup.BOGUS:
                self._put(self.domain, "MX", *targets)
                if publication.mx_lookup is MxLookup.BOGUS:
                    self.lab.dns.zones.bogus.add((absolute(self.domain), "MX"))
            case MxLookup.NULL:
                self._put(self.domain, "MX", "0 .")

    async def _publish_host(self, hostname: str, mx: Mx) -> None:
        names = tuple(self.fill(name) for name in mx.names)
        server = self.servers.get(hostname)
        if server is None:
            server = await self.lab.mx.add(
                hostname,
                behaviour=mx.behaviour,
                certificate=mx.certificate,
                names=names,
                ipv6=mx.addresses is Addresses.IPV6,
                port=mx.port,
            )
            self.servers[hostname] = server
        else:
            server.behaviour = mx.behaviour
            server.issued = self.lab.certificates.issue(hostname, mx.certificate, names=names)
        host = hostname
        if mx.alias:
            host = f"real.{hostname}"
            self._put(hostname, "CNAME", f"{host}.")
        match mx.addresses:
            case Addresses.IPV4:
                self._put(host, "A", str(server.address))
            case Addresses.IPV6:
                self._put(host, "AAAA", str(server.address))
            case Addresses.FAILING:
                self._fail(host)
        self._publish_tlsa(f"_{mx.port}._tcp.{host}", mx.tlsa, server)

    def _publish_tlsa(self, owner: str, tlsa: Tlsa, server: MxServer) -> None:
        match tlsa:
            case Tlsa.MATCHING | Tlsa.BOGUS:
                self._put(owner, "TLSA", tlsa_3_1_1(server.issued))
                if tlsa is Tlsa.BOGUS:
                    self.lab.dns.zones.bogus.add((absolute(owner), "TLSA"))
            case Tlsa.MISMATCHING:
                self._put(owner, "TLSA", _TLSA_MISMATCHING)
            case Tlsa.UNUSABLE:
                self._put(owner, "TLSA", _TLSA_UNUSABLE)
            case Tlsa.FAILING:
                self._fail(owner)

    def _publish_record(self, publication: Publication) -> None:
        owner = f"_mta-sts.{self.domain}"
        if publication.record_fails:
            self._fail(owner)
            return
        if publication.records is None:
            return
        if publication.record_alias:
            alias, owner = owner, f"_mta-sts.provider.{self.domain}"
            self._put(alias, "CNAME", f"{owner}.")
        self.lab.dns.zones.put_txt(owner, *publication.records)
        self._owned.add((absolute(owner), "TXT"))

    def _publish_site(self, site: Site | None) -> None:
        self.lab.policy_hosts.sites.pop(self.policy_host, None)
        if site is None:
            return
        self.lab.policy_hosts.sites[self.policy_host] = PolicySite(
            body=self.fill(site.body),
            status=site.status,
            content_type=site.content_type,
            more_headers=site.more_headers,
            certificate=site.certificate,
            delay_seconds=site.delay_seconds,
            raw=site.raw,
            cut=site.cut,
            refuses_tls=site.refuses_tls,
        )
        match site.address:
            case PolicyHostAddress.NONE:
                pass
            case PolicyHostAddress.FAILING:
                self._fail(self.policy_host)
            case PolicyHostAddress.UNANSWERED:
                self._fail(self.policy_host, unanswered=True)
            case address:
                self._put(self.policy_host, "A", _POLICY_HOST_ADDRESSES[address])
