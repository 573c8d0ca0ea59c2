"""Who may import whom: the table of allowed edges, and a walk over every module that fails on any other.

An area is a package or a module right below `stsguard`. Imports inside functions and under TYPE_CHECKING count as well.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import stsguard

STANDARD_LIBRARY = sys.stdlib_module_names
ROOT = Path(stsguard.__file__).parent

# Left may import right, beside itself. `names` is part of what `core` speaks, so who may use core may use names.
ALLOWED = {
    "names": set(),
    "log": set(),
    "metrics": set(),
    "core": {"names"},
    "ports": {"core", "names"},
    "config": {"core", "names", "log", "metrics"},
    "adapters": {"core", "names", "log", "metrics"},
    "store": {"core", "names", "log", "metrics"},
    "discovery": {"ports", "core", "names", "log", "metrics"},
    "outbound": {"discovery", "ports", "core", "names", "log", "metrics"},
    "inbound": {"discovery", "ports", "core", "names", "log", "metrics"},
    "milter": {"discovery", "ports", "core", "names", "log", "metrics"},
    "app": {
        *("adapters", "store", "discovery", "outbound", "inbound", "milter"),
        *("ports", "config", "core", "names", "log", "metrics"),
    },
    "cli": {"app", "config", "core", "names", "log", "metrics"},
    "__main__": {"cli"},  # `python -m stsguard` is the command
}

# Adapters do not import each other. A package below `adapters` is one adapter.
SEPARATE = {"adapters"}

# core is pure: nothing that reaches outside, reads a clock, draws a random number or looks at the environment.
BANNED_IN_CORE = {
    *("socket", "ssl", "asyncio", "select", "selectors", "socketserver", "signal"),
    *("sqlite3", "subprocess", "multiprocessing", "threading", "concurrent", "queue"),
    *("logging", "syslog"),
    *("time", "random", "secrets", "uuid", "os", "sys", "platform", "getpass", "locale"),
    *("pathlib", "io", "tempfile", "shutil", "glob", "fileinput", "mmap"),
    *("http", "urllib", "smtplib", "ftplib", "xmlrpc", "importlib", "ctypes"),
}
# What core may use beside the standard library: msgspec for reports only, idna for internationalised names only.
THIRD_PARTY = {"core": {"cryptography", "msgspec"}, "names": {"idna"}}
MSGSPEC_IN_CORE = ("stsguard.core.tlsrpt_report", "stsguard.core.received_")
# datetime is a value type; these of its class methods read the clock.
CLOCK_METHODS = {"now", "utcnow", "today"}
BUILTINS_BANNED_IN_CORE = {"open", "input", "print", "exec", "eval", "__import__"}


def module_names(root: Path) -> Iterator[tuple[str, Path]]:
    """Every module below `root` with its full name."""
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root.parent).with_suffix("").parts
        yield ".".join(parts).removesuffix(".__init__"), path


def imported(tree: ast.Module, module: str, *, is_package: bool) -> Iterator[tuple[str, int]]:
    """Full names of what the module imports, with the line: `from a import b` counts as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: None if is_package and node.level == 1 else -node.level + is_package]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield f"{base}.{alias.name}", node.lineno


def area_of(name: str) -> str:
    """`stsguard.core.mtasts` and `stsguard.core` belong to `core`; the root package itself to none ("")."""
    _, _, rest = name.partition(".")
    return rest.partition(".")[0]


def faults(source: str, module: str, *, is_package: bool = False) -> list[str]:
    """What the module does that the tables above do not allow."""
    tree = ast.parse(source)
    area = area_of(module)
    found = [f"{module}: area {area!r} is in no table"] if area and area not in ALLOWED else []
    for name, line in imported(tree, module, is_package=is_package):
        why = (
            _own_fault(name, module, area)
            if name.split(".", maxsplit=1)[0] == "stsguard"
            else _foreign_fault(name, module, area)
        )
        if why:
            found.append(f"{module}:{line}: {why}")
    if area == "core":
        found += [f"{module}:{line}: {why}" for why, line in _impure(tree)]
    return found


def _own_fault(name: str, module: str, area: str) -> str | None:
    wanted = area_of(name)
    if wanted not in ALLOWED:
        return None if name == "stsguard.__version__" else f"{name} is in no area"
    if wanted == area:
        ours, theirs = module.split(".")[2:3], name.split(".")[2:3]
        separate = area in SEPARATE and ours and ours != theirs
        return f"{name}: these do not import each other" if separate else None
    return None if wanted in ALLOWED.get(area, set()) else f"{area or 'the root'} may not import {name}"


def _foreign_fault(name: str, module: str, area: str) -> str | None:
    top = name.split(".", maxsplit=1)[0]
    if top == "importlib" and module != "stsguard.cli.main":
        return "importlib hides imports from this test"
    if area not in THIRD_PARTY:
        return None
    if area == "core" and top in BANNED_IN_CORE:
        return f"core may not import {top}"
    if top not in STANDARD_LIBRARY and top not in THIRD_PARTY[area]:
        return f"{area} may not import {top}"
    if area == "core" and top == "msgspec" and not module.startswith(MSGSPEC_IN_CORE):
        return "msgspec is for reports only"
    return None


def _impure(tree: ast.Module) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr in CLOCK_METHODS:
            yield f"core reads the clock by .{node.func.attr}()", node.lineno
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS_BANNED_IN_CORE:
            yield f"core calls {node.func.id}()", node.lineno


MODULES = list(module_names(ROOT))


@pytest.mark.parametrize(("module", "path"), [pytest.param(*found, id=found[0]) for found in MODULES])
def test_module_imports_only_what_it_may(module: str, path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8"), module, is_package=path.name == "__init__.py") == []


def test_every_module_is_walked() -> None:
    names = {name for name, _ in MODULES}
    assert {"stsguard", "stsguard.names", "stsguard.core", "stsguard.core.mtasts", "stsguard.cli.main"} <= names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("stsguard.core.a", "import re, ipaddress\nfrom datetime import datetime"),
        ("stsguard.core.a", "from cryptography import x509"),
        ("stsguard.core.a", "from stsguard.core.errors import PeerError\nfrom stsguard.names import Domain"),
        ("stsguard.core.a", "from .errors import PeerError\nfrom . import errors"),
        ("stsguard.core.tlsrpt_report", "import msgspec"),
        ("stsguard.core.a", "x.now\nnow()\ny.open()"),
        ("stsguard.names", "import re\nimport idna"),
        ("stsguard.discovery.a", "from stsguard.ports import Clock\nfrom stsguard import log, metrics\nimport asyncio"),
        ("stsguard.adapters.a", "import httpx\nfrom stsguard.core import mtasts"),
        ("stsguard.adapters.a.b", "from stsguard.adapters.a.c import x\nfrom stsguard.adapters.a import c"),
        ("stsguard.cli.main", "import importlib\nfrom stsguard import __version__"),
        ("stsguard.app", "from stsguard.adapters.a import x\nfrom stsguard.store import y"),
    ],
)
def test_allowed(module: str, source: str) -> None:
    assert faults(source, module) == []


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("stsguard.core.a", "import asyncio", "core may not import asyncio"),
        ("stsguard.core.a", "def f():\n    import logging", "2: core may not import logging"),
        ("stsguard.core.a", "if TYPE_CHECKING:\n    from socket import socket", "core may not import socket"),
        ("stsguard.core.a", "from os import environ", "core may not import os"),
        ("stsguard.core.a", "import urllib.request", "core may not import urllib"),
        ("stsguard.core.a", "import dns.resolver", "core may not import dns"),
        ("stsguard.core.a", "import httpx", "core may not import httpx"),
        ("stsguard.core.a", "import idna", "core may not import idna"),
        ("stsguard.core.a", "import msgspec", "msgspec is for reports only"),
        ("stsguard.core.a", "from stsguard import log", "core may not import stsguard.log"),
        ("stsguard.core.a", "from stsguard.ports import Clock", "core may not import stsguard.ports"),
        ("stsguard.core.a", "from .. import ports", "core may not import stsguard.ports"),
        ("stsguard.core.a", "from ..ports import Clock", "core may not import stsguard.ports"),
        ("stsguard.core.a", "datetime.now(UTC)", "core reads the clock by .now()"),
        ("stsguard.core.a", "open('x')", "core calls open()"),
        ("stsguard.names", "import dns", "names may not import dns"),
        ("stsguard.names", "from stsguard.core import errors", "names may not import stsguard.core"),
        ("stsguard.log", "from stsguard import names", "log may not import stsguard.names"),
        ("stsguard.ports", "from stsguard import log", "ports may not import stsguard.log"),
        ("stsguard.discovery.a", "from stsguard.adapters import b", "discovery may not import stsguard.adapters"),
        ("stsguard.discovery.a", "from stsguard import adapters", "discovery may not import stsguard.adapters"),
        ("stsguard.outbound.a", "import stsguard.inbound.b", "outbound may not import stsguard.inbound"),
        ("stsguard.outbound.a", "from stsguard.config.load import b", "outbound may not import stsguard.config"),
        ("stsguard.adapters.a", "from stsguard.adapters.b import x", "these do not import each other"),
        ("stsguard.adapters.a", "from stsguard.adapters import b", "these do not import each other"),
        ("stsguard.adapters.a", "from stsguard.ports import Clock", "adapters may not import stsguard.ports"),
        ("stsguard.cli.a", "from stsguard.store import b", "cli may not import stsguard.store"),
        ("stsguard.app", "from stsguard.cli import main", "app may not import stsguard.cli"),
        ("stsguard.discovery.a", "import importlib", "importlib hides imports"),
        ("stsguard.utils", "", "area 'utils' is in no table"),
        ("stsguard.app", "import stsguard.elsewhere", "stsguard.elsewhere is in no area"),
        ("stsguard", "from stsguard import core", "the root may not import stsguard.core"),
    ],
)
def test_forbidden(module: str, source: str, why: str) -> None:
    found = faults(source, module)
    assert len(found) == 1
    assert why in found[0]


def test_relative_imports_of_a_package_are_resolved() -> None:
    assert faults("from .errors import PeerError\nfrom . import errors", "stsguard.core", is_package=True) == []
    assert faults("from .. import ports", "stsguard.core", is_package=True) != []
