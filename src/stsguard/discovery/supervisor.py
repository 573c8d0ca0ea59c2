"""The one place that catches every exception: a fault of ours in one task never ends the others.

The stack goes to the log, a counter goes up, and nothing goes to the peer. Whoever waits for the task's result gets
the exception and answers TEMP.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar, TypeVarTuple

from stsguard.log import logger
from stsguard.metrics import Counter

log = logger(__name__)
T = TypeVar("T")
Ts = TypeVarTuple("Ts")
crashes = Counter("task_crashes_total", "Tasks that ended by a fault of ours; each has its stack in the log.", "task")

RESTART_SECONDS = 10.0
_REPORTED = "(in stsguard's log already)"


def report(task: str, exc: BaseException) -> None:
    """Log and count a fault of ours, once however many tasks it travels through. `task` is a constant name, its
    particulars are in the stack."""
    if _REPORTED in getattr(exc, "__notes__", ()):
        return
    crashes.inc(task)
    log.error("fault in stsguard, please report it", exc_info=exc, extra={"fields": {"task": task}})
    exc.add_note(_REPORTED)


async def supervised(task: str, work: Awaitable[object]) -> bool:
    """Do `work`; a fault is reported and ends here. Whether there was none. Cancellation passes."""
    try:
        await work
    except Exception as exc:  # noqa: BLE001 (this is the supervisor)
        report(task, exc)
        return False
    return True


async def kept_up(task: str, work: Callable[[], Awaitable[object]]) -> None:
    """Do `work` until it ends by itself; after a fault it is begun anew a little later."""
    while not await supervised(task, work()):  # noqa: ASYNC110 (it is the work that is waited for)
        await asyncio.sleep(RESTART_SECONDS)


def contained(task: str, call: Callable[[*Ts], object], *arguments: *Ts) -> bool:
    """Call something that must not take its caller down; a fault is reported. Whether there was none."""
    return caught(task, call, *arguments) is None


def attempted(task: str, call: Callable[[*Ts], T], *arguments: *Ts, otherwise: T) -> T:
    """What a call gives that must not take its caller down; `otherwise` after a fault, which is reported."""
    try:
        return call(*arguments)
    except Exception as exc:  # noqa: BLE001 (this is the supervisor)
        report(task, exc)
        return otherwise


def guarded(task: str, call: Callable[[T], object], argument: T, failed: Callable[[T, Exception], object]) -> None:
    """As `contained`; `failed` has `argument` and the fault, where there was one."""
    try:
        call(argument)
    except Exception as exc:  # noqa: BLE001 (this is the supervisor)
        report(task, exc)
        failed(argument, exc)


def caught(task: str, call: Callable[[*Ts], object], *arguments: *Ts) -> Exception | None:
    """As `contained`; the fault, where there was one."""
    try:
        call(*arguments)
    except Exception as exc:  # noqa: BLE001 (this is the supervisor)
        report(task, exc)
        return exc
    return None
