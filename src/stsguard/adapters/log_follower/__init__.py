"""Follows a mail log: a file through rotation, or the journal. Hands over lines in batches, each with its position.

A position is text that means something to the same kind of follower only. Who stores it together with what the lines
came to (in one transaction) neither counts a line twice nor loses one, however the daemon ends.
"""

from stsguard.adapters.log_follower.batch import LogBatch
from stsguard.adapters.log_follower.file import FileFollower
from stsguard.adapters.log_follower.journal import JournalFollower

__all__ = ["FileFollower", "JournalFollower", "LogBatch"]
