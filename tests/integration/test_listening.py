"""What an admin reads where a TCP socket can't be had."""

import subprocess
import sys

import pytest

from stsguard.adapters.listening import listen_inet
from stsguard.core.errors import ListenFailed
from tests.integration.store.test_disk import needs_root

# Capabilities go with root, in a network namespace or not; the sysctl of 1024 is the kernel's default.
AS_NOBODY = """
import os
from stsguard.adapters.listening import listen_inet
os.setgroups([]); os.setgid(65534); os.setuid(65534)
listen_inet("127.0.0.1", 443)
"""


def test_address_is_written_as_the_configuration_has_it() -> None:
    with pytest.raises(ListenFailed, match=r"can't listen at inet:\[2001:db8::1\]:443: "):
        listen_inet("2001:db8::1", 443)


@needs_root
def test_port_that_needs_a_capability_says_so() -> None:
    done = subprocess.run([sys.executable, "-c", AS_NOBODY], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        pytest.skip("this kernel lets anybody have ports below 1024")
    assert "inet:127.0.0.1:443: ports below 1024 need CAP_NET_BIND_SERVICE" in done.stderr
