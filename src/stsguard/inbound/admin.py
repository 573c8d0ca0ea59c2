"""What the admin socket of `stsguard inbound` answers: /healthz, /metrics, /status."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from stsguard.discovery.describe import Plain
from stsguard.discovery.health import Health

PATHS = ("/healthz", "/metrics", "/status")


class Request(Protocol):
    """An HTTP request, as the server adapter gives it."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Result:
    """What a route gives: plain data with a status, or text."""

    status: int
    content: Plain | bytes


class InboundAdmin:
    """The routes of the admin socket."""

    def __init__(self, health: Health, status: Callable[[], Plain], render_metrics: Callable[[], bytes]) -> None:
        self._health = health
        self._status = status
        self._render_metrics = render_metrics

    async def handle(self, request: Request) -> Result:
        """Answer one request; GET and HEAD only."""
        if request.path not in PATHS or request.method not in ("GET", "HEAD"):
            status = 405 if request.path in PATHS else 404
            return Result(status, {"error": "no such resource, or not by this method"})
        if request.path == "/metrics":
            return Result(200, self._render_metrics())
        good, report = self._health.report()
        described = report if request.path == "/healthz" else {**self._status(), **report}
        return Result(200 if good else 503, described)
