"""`stsguard inbound` at a site that takes reports in."""

import json
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.integration.intake_site import STSGUARD, IntakeSite

LIMIT_SECONDS = 60.0
DAEMON = """
[policy_host]
listen = []
http_listen = ["unix:{directory}/policy.sock"]
acme_directory = ""
certificate_dir = ""
"""


class Daemon:
    """`stsguard inbound` at a site."""

    def __init__(self, site: IntakeSite) -> None:
        self.site = site
        config = site.directory / "stsguard.toml"
        config.write_text(config.read_text() + DAEMON.format(directory=site.directory))
        self.log = site.directory / "log"

    def start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen([str(STSGUARD), "inbound", *self.site.options], stderr=log)
        return self.process

    def wait(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + LIMIT_SECONDS
        while not condition():
            assert time.monotonic() < limit, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        command = [str(STSGUARD), "status", "--json", *self.site.options]
        done = subprocess.run(command, capture_output=True, check=False)
        found = json.loads(done.stdout)["inbound"]
        assert isinstance(found, dict)
        return found

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0, self.log.read_text()
