"""Why a database is not used, for the administrator; without SQLAlchemy."""

import os
import pwd


class Refused(Exception):
    """A database that is there and is not used; the message lacks its name, which `as_unavailable` puts in front."""


def user() -> str:
    """The user that this process runs as, for a message."""
    uid = os.geteuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"
