"""The one place that catches every exception: a fault of ours in one task never ends the others.

The stack goes to the log, a counter goes up, and nothing goes to the peer. Whoever waits for the task's result gets
the exception and answers TEMP.
"""

from collections.abc import Awaitable

from stsguard.log import logger
from stsguard.metrics import Counter

log = logger(__name__)
crashes = Counter("task_crashes_total", "Tasks that ended by a fault of ours; each has its stack in the log.", "task")


def report(task: str, exc: BaseException) -> None:
    """Log and count a fault of ours. `task` is a constant name, its particulars are in the stack."""
    crashes.inc(task)
    log.error("fault in stsguard, please report it", exc_info=exc, extra={"fields": {"task": task}})


async def supervised(task: str, work: Awaitable[object]) -> None:
    """Do `work`; a fault is reported and ends here. Cancellation passes."""
    try:
        await work
    except Exception as exc:  # noqa: BLE001 (this is the supervisor)
        report(task, exc)
