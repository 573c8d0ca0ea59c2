"""What stands in the root directory of a lab's Postfix beside what its Debian release has: files, directories of this
system, and by these stsguard itself, so that pipe(8) can run it as master.cf says.

The release stays as it is: an overlay puts them over it, for this lab alone and read-only.
"""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click

import stsguard

OURS = Path("/opt/stsguard")  # there
_LIBRARY = re.compile(r" (/\S+/(?:lib|ld-)[^/\s]*\.so\S*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Additions:
    """`files` by their path, those below bin are programs; `directories` of this system by where they are seen;
    `first` are shell commands that are run in the lab before."""

    files: Mapping[Path, str] = field(default_factory=dict)
    directories: Mapping[Path, Path] = field(default_factory=dict)
    first: str = ""

    def write(self, over: Path) -> None:
        """Write everything that lies over the release to the directory `over`."""
        for path, text in self.files.items():
            file = over / path.relative_to("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            file.chmod(0o755 if path.parent.name == "bin" else 0o644)
        for path in self.directories:
            (over / path.relative_to("/")).mkdir(parents=True)

    def mount(self, over: Path, release: Path, root: Path) -> str:
        """The shell commands that put `release`, and over it what is in `over`, together at `root`."""
        lines = [self.first, f"mount -t overlay overlay -o ro,lowerdir={over}:{release} {root}"]
        lines += [f"mount --bind -o ro {source} {root}{path}" for path, source in self.directories.items()]
        return "\n".join(lines)


def users(release: Path, numbers: Mapping[str, int], members: Mapping[str, str]) -> dict[Path, str]:
    """The files by which a release has these users more, each with a group of the same name and number; `members` is
    who else is in such a group."""
    passwd = [f"{name}:x:{number}:{number}::/nonexistent:/usr/sbin/nologin\n" for name, number in numbers.items()]
    group = [f"{name}:x:{number}:{members.get(name, '')}\n" for name, number in numbers.items()]
    lines = {Path("/etc/passwd"): "".join(passwd), Path("/etc/group"): "".join(group)}
    return {path: (release / path.relative_to("/")).read_text() + more for path, more in lines.items()}


def our_program() -> Additions:
    """/usr/bin/stsguard: this Python with these sources. Its libraries, and what loads them, are this system's, since
    the release may have older ones; nothing of it needs rights of its user's."""
    base = Path(sys.base_prefix)
    python = OURS / "python" / Path(os.path.realpath(sys.executable)).relative_to(base)
    loaded = [Path(os.path.realpath(path)) for path in _LIBRARY.findall(Path("/proc/self/maps").read_text())]
    found = sorted({path.parent for path in loaded if "site-packages" not in path.parts})
    libraries = {path: OURS / f"lib{number}" for number, path in enumerate(found)}
    (loader,) = {path for path in loaded if path.name.startswith("ld-")}
    packages, sources = Path(click.__file__).parents[1], Path(stsguard.__file__).parents[1]
    run = f"{libraries[loader.parent] / loader.name} --library-path {':'.join(map(str, libraries.values()))} {python}"
    script = f"""#!/bin/sh
export PYTHONHOME={OURS}/python PYTHONPATH={OURS}/sources:{OURS}/packages
exec {run} -m stsguard "$@"
"""
    directories = {OURS / "python": base, OURS / "packages": packages, OURS / "sources": sources}
    directories |= {there: here for here, there in libraries.items()}
    return Additions({Path("/usr/bin/stsguard"): script}, directories)
