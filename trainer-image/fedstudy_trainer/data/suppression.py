"""Hides small counts, so that what a hospital shows of its data does not point to a patient."""

from __future__ import annotations

from collections.abc import Sequence


def suppressed(parts: Sequence[int], least: int) -> list[int | None]:
    """The parts of a whole, without those below `least`.

    Where exactly one part is hidden, the smallest other one is hidden too: the whole is known, so one hidden part
    could be computed (secondary suppression).

    Args:
        parts: counts that add up to a number that is shown.
        least: the smallest count that may be shown, minCellCount.
    """
    hidden = {index for index, count in enumerate(parts) if count < least}
    if len(hidden) == 1 and len(parts) > 1:
        shown = [index for index in range(len(parts)) if index not in hidden]
        hidden.add(min(shown, key=lambda index: parts[index]))
    return [None if index in hidden else count for index, count in enumerate(parts)]


def count_text(count: int, least: int) -> str:
    """A count in words: small ones only as `Fewer than 5`."""
    return str(count) if count >= least else f"Fewer than {least}"
