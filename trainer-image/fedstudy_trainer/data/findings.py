"""Collects what does not fit, so that a person sees all of it at once and a repeated fault only once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from fedstudy.errors import DataError

SHOWN = 50
"""How many faults (and how many warnings) are told one by one."""


@dataclass
class Findings:
    """Faults, which keep a site from taking part, and warnings, which do not. Both in the order found."""

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def fault(self, message: str) -> None:
        """Note a fault, once."""
        if message not in self.faults:
            self.faults.append(message)

    def warn(self, message: str) -> None:
        """Note a warning, once."""
        if message not in self.warnings:
            self.warnings.append(message)

    def raise_faults(self) -> None:
        """Raise the first fault, and say how many more there are.

        Raises:
            DataError: there is at least one fault.
        """
        if not self.faults:
            return
        more = len(self.faults) - 1
        rest = f" And {more} more: run `fedstudy-trainer preflight` for all." if more else ""
        raise DataError(self.faults[0] + rest, "Correct the data or its description (docs/data.md).")


def shown(messages: Sequence[str]) -> list[str]:
    """The first of many messages, and how many more there are."""
    more = len(messages) - SHOWN
    return list(messages) if more <= 0 else [*messages[:SHOWN], f"and {more} more"]


def row_list(rows: Sequence[int]) -> str:
    """Rows of a table in words: `row 7`, `rows 7 and 9`, `row 7 and 41 more rows`."""
    if len(rows) == 1:
        return f"row {rows[0]}"
    if len(rows) == 2:
        return f"rows {rows[0]} and {rows[1]}"
    return f"row {rows[0]} and {len(rows) - 1} more rows"


def one_of(values: Sequence[str]) -> str:
    """Alternatives in words: `a`, `a or b`, `a, b or c`."""
    return values[0] if len(values) == 1 else f"{', '.join(values[:-1])} or {values[-1]}"


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape in words: `48 x 48 x 40`."""
    return " x ".join(str(size) for size in shape)
