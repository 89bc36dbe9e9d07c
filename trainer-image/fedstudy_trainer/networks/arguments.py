"""Checks a plan's network arguments against what an architecture takes, before torch ever sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fedstudy.errors import PlanError
from fedstudy.plan import ArgumentValue


@dataclass(frozen=True)
class Argument:
    """One argument of an architecture.

    Attributes:
        default: its value when the plan gives none; its type is the type that is taken.
        low, high: bounds of a number, or of each number of a list; both are allowed values.
        choices: the values of a text argument.
    """

    default: ArgumentValue
    low: float = 0.0
    high: float = 4096.0
    choices: tuple[str, ...] = ()


def check(
    network: str, taken: Mapping[str, Argument], given: Mapping[str, ArgumentValue]
) -> dict[str, ArgumentValue]:
    """The arguments with defaults filled in.

    Raises:
        PlanError: an argument is unknown, of the wrong type or out of bounds; the message names its field.
    """
    for name in given:
        if name not in taken:
            known = ", ".join(sorted(taken)) or "none"
            raise PlanError(
                f"model.network.arguments.{name}: {network} takes no such argument.", f"It takes: {known}."
            )
    return {name: _checked(name, argument, given.get(name)) for name, argument in taken.items()}


def _checked(name: str, argument: Argument, value: ArgumentValue | None) -> ArgumentValue:
    if value is None:
        return argument.default
    fault = _fault(argument, value)
    if fault:
        raise PlanError(f"model.network.arguments.{name}: {value!r} {fault}.", "Correct the study's plan.")
    return float(value) if isinstance(argument.default, float) and isinstance(value, int) else value


def _fault(argument: Argument, value: ArgumentValue) -> str | None:
    default = argument.default
    if isinstance(default, list):
        if not isinstance(value, list) or not 1 <= len(value) <= 32:
            return "is not a list of 1 to 32 numbers"
        faults = [_number_fault(argument, item, whole=True) for item in value]
        return next((fault for fault in faults if fault), None)
    if isinstance(default, str):
        return None if value in argument.choices else f"is not one of {', '.join(argument.choices)}"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "is neither true nor false"
    return _number_fault(argument, value, whole=isinstance(default, int))


def _number_fault(argument: Argument, value: object, *, whole: bool) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        return "is not a whole number" if whole else "is not a number"
    assert isinstance(value, (int, float))
    if not argument.low <= value <= argument.high:
        return f"is not within {argument.low:g} and {argument.high:g}"
    return None
