"""A PostgreSQL server of our own in a temporary directory, reached through a unix socket."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

LIBRARY = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The directory with the newest initdb and pg_ctl, None where the package postgresql is not installed."""
    found = sorted(LIBRARY.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


@dataclass(frozen=True, slots=True)
class Cluster:
    """A server: `directory` holds its data and its socket."""

    programs: Path
    directory: Path

    def run(self, program: str, *arguments: str) -> str:
        """The output of one of PostgreSQL's programs, run as the user that owns the cluster."""
        done = subprocess.run(
            [str(self.programs / program), *arguments],
            user="postgres" if os.geteuid() == 0 else None,  # initdb refuses root
            cwd=self.directory,
            env={"PATH": os.environ["PATH"], "LC_ALL": "C", "PGHOST": str(self.directory), "PGUSER": "postgres"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stdout}{done.stderr}"
        return done.stdout

    def sql(self, statement: str, *, database: str = "postgres") -> str:
        """What psql prints for `statement`."""
        return self.run("psql", "-X", "-q", "-A", "-t", "-d", database, "-c", statement).strip()

    def start(self) -> None:
        """Start the server and wait until it answers; pg_ctl waits."""
        options = f"-c listen_addresses= -c unix_socket_directories={self.directory} -c fsync=off"
        self.run("pg_ctl", "start", "-w", "-t", "60", "-D", "data", "-l", "server.log", "-o", options)

    def stop(self) -> None:
        """Stop the server at once."""
        self.run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", "data")

    def new_database(self, *options: str) -> str:
        """The URL of a new, empty database."""
        name = f"stsguard_{uuid4().hex}"
        self.run("createdb", *options, name)
        return f"postgresql://postgres@/{name}?host={self.directory}"


@contextmanager
def cluster(found: Path) -> Iterator[Cluster]:
    """A running server, gone at the end."""
    directory = Path(tempfile.mkdtemp(prefix="stsguard-pg-"))  # short: the path of a unix socket is limited
    try:
        if os.geteuid() == 0:
            shutil.chown(directory, "postgres")
        made = Cluster(found, directory)
        made.run("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(directory)
