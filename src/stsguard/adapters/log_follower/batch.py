"""What the followers hand over."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LogBatch:
    """Lines in their order, without line ends, and the position after the last of them.

    `position` is empty as long as there is none to go on from. `lost` says that lines before these could not be had:
    what is joined from several lines has to begin anew. `from_start` says that nothing came before these lines.
    """

    lines: tuple[str, ...]
    position: str
    lost: bool = False
    from_start: bool = False
