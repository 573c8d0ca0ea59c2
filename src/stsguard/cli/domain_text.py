"""How `stsguard domain` says things: instants, steps, policies; and the arguments that its commands share."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from stsguard.cli.asking import EXIT_PROBLEM, EXIT_UNREACHABLE, Plain, fail, lifetime
from stsguard.cli.options import config_option, json_option, state_dir_option

if TYPE_CHECKING:
    from stsguard.config.model import Config
    from stsguard.core.hosted import HostedDomain, PolicyVersion
    from stsguard.core.mtasts import MxPattern
    from stsguard.core.rollout_steps import Step
    from stsguard.names import Domain

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def parse_domain(text: str) -> "Domain":
    """The domain name in an argument; anything else is a usage error."""
    from stsguard.names import Domain, NameInvalid

    try:
        return Domain.parse(text)
    except NameInvalid as exc:
        raise click.BadParameter(f"{text!r}: {exc}") from exc


def domain_value(_ctx: click.Context, _param: click.Parameter, value: str | None) -> "Domain | None":
    """For a click option or argument that is a domain name."""
    return None if value is None else parse_domain(value)


def reason_value(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    """For --force: a reason that is given has to say something, since it is recorded."""
    if not value.strip() and _ctx.get_parameter_source("forced") is not click.core.ParameterSource.DEFAULT:
        raise click.BadParameter("say why; the reason is recorded")
    return value.strip()


def mx_values(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> "tuple[MxPattern, ...]":
    """For a click option that is an `mx` value; one option may have several, with commas or blanks."""
    from stsguard.core.errors import PolicyInvalid
    from stsguard.core.mtasts import MxPattern

    try:
        return tuple(MxPattern.parse(_lower(text)) for value in values for text in value.replace(",", " ").split())
    except PolicyInvalid as exc:
        raise click.BadParameter(str(exc)) from exc


def _lower(text: str) -> str:
    return text.removesuffix(".").lower()


domain_argument = click.argument("policy_domain", metavar="DOMAIN", callback=domain_value)


def common_options(command: F) -> F:
    """--json, --config, --state-dir."""
    return json_option(config_option(state_dir_option(command)))


def try_or_end(call: Callable[[], T]) -> T:
    """What `call` returns; where it can't be done the command ends with the reason: exit 1 refused, 3 not checked."""
    from stsguard.app.domain_work import CouldNotCheck
    from stsguard.core.errors import StoreUnavailable, TransitionRefused

    try:
        return call()
    except TransitionRefused as exc:
        fail(str(exc), EXIT_PROBLEM)
    except CouldNotCheck as exc:
        fail(str(exc), EXIT_UNREACHABLE)
    except StoreUnavailable as exc:
        fail(f"the database can't be used: {exc}", EXIT_UNREACHABLE)


def not_hosted(policy_domain: "Domain") -> NoReturn:
    """End the command: there is no such domain here."""
    fail(f"{policy_domain} is not hosted here; stsguard domain add {policy_domain} adds it", EXIT_PROBLEM)


def read_domain_config(config_file: Path, state_dir: Path | None, *, make_state_dir: bool = False) -> "Config":
    """The configuration of a domain command."""
    from stsguard.cli.options import read_config

    return read_config(config_file, state_dir=state_dir, make_state_dir=make_state_dir)


def instant(at: datetime | None, *, unknown: str = "-") -> str:
    """An instant for people, to the minute, always UTC."""
    return unknown if at is None else f"{at:%Y-%m-%d %H:%M} UTC"


def stamp(at: datetime | None) -> str | None:
    """An instant for programs."""
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"


def mx_text(version: "PolicyVersion") -> str:
    """The `mx` of a version on one line."""
    return ", ".join(map(str, version.mx_patterns)) or "none"


def record_line(domain: "HostedDomain", ttl_seconds: int) -> str:
    """The TXT record with the id of the current version, as a zone file has it."""
    from stsguard.core.hosted import record_text

    return f'_mta-sts.{domain.policy_domain}. {ttl_seconds} IN TXT "{record_text(domain.current.record_id)}"'


def next_lines(config: "Config", domain: "HostedDomain", step: "Step") -> list[str]:
    """What happens next and who does it, a sentence a line."""
    from stsguard.core.rollout_steps import Action

    name, automatic = domain.policy_domain, config.dns_update.server is not None
    record = record_line(domain, config.policy_host.record_ttl_seconds)
    match step.action:
        case Action.FETCH_BACK:
            lines = [
                f"stsguard inbound fetches the policy back from every public address of {domain.policy_host}",
                "leave the _mta-sts record as it is until it has; stsguard domain dns shows what DNS needs",
            ]
        case Action.PUBLISH_ID if automatic:
            lines = [f"stsguard inbound publishes id {step.version.record_id} by [dns_update]"]
        case Action.PUBLISH_ID:
            lines = ["put this record into DNS now, in place of any other there:", f"    {record}"]
        case Action.WAIT_UNTIL | Action.NOTHING:
            lines = [step.why]
        case Action.GROW_MAX_AGE:
            lines = ["stsguard inbound doubles max_age: there was no finding for 30 days"]
        case Action.REMOVE_RECORD if automatic:
            lines = [f"stsguard inbound removes the record _mta-sts.{name} by [dns_update]"]
        case Action.REMOVE_RECORD:
            lines = [f"remove the TXT record _mta-sts.{name} from DNS now"]
        case Action.STOP_SERVING:
            lines = [f"stsguard inbound stops serving; then {domain.policy_host} may go from DNS as well"]
    if step.until is not None:
        lines.append(f"until {instant(step.until)}")
    return lines


def step_text(step: "Step") -> str:
    """The next step in a few words, for a table."""
    from stsguard.core.rollout_steps import Action

    if step.action is Action.NOTHING:
        return "-"
    if step.action is Action.WAIT_UNTIL:
        return f"wait until {instant(step.until)}"
    return step.action.value


def max_age_text(seconds: int) -> str:
    """max_age for people."""
    return f"{seconds} s ({lifetime(seconds)})"


def plain_version(domain: "HostedDomain", version: "PolicyVersion") -> Plain:
    """A version for programs."""
    return {
        "number": version.number,
        "id": version.record_id,
        "mode": version.mode.value,
        "max_age": version.max_age,
        "mx": [str(pattern) for pattern in version.mx_patterns],
        "reason": version.reason,
        "created_at": stamp(version.created_at),
        "served_at": stamp(version.served_at),
        "published_at": stamp(version.published_at),
        "record_ttl": version.record_ttl,
        "held_until": stamp(domain.held_until(version)),
    }


def plain_domain(domain: "HostedDomain", step: "Step") -> Plain:
    """A domain for programs."""
    return {
        "domain": domain.policy_domain,
        "stage": domain.stage.value,
        "stage_since": stamp(domain.stage_since),
        "mode": domain.current.mode.value,
        "max_age": domain.current.max_age,
        "mx": [str(pattern) for pattern in domain.current.mx_patterns],
        "id": domain.current.record_id,
        "version": domain.current.number,
        "alias_of": domain.alias_of,
        "added_at": stamp(domain.added_at),
        "quiet_since": stamp(domain.quiet_since),
        "record_gone_at": stamp(domain.record_gone_at),
        "next": {"action": step.action.value, "why": step.why, "until": stamp(step.until)},
    }
