"""Words of other parties in our terms: reasons that processes give, faults that pydantic finds."""

from __future__ import annotations

from pydantic import ValidationError

from fedstudy_operator.api.conditions import Reason


def reason_of(text: str, default: Reason) -> Reason:
    """The reason of that name, or the default where there is none."""
    return Reason(text) if text in Reason._value2member_map_ else default


def fault_text(error: ValidationError) -> str:
    """All faults of a resource in one line: field path and what is wrong."""
    faults = [
        (".".join(str(part) for part in e["loc"]), e["msg"].removeprefix("Value error, "))
        for e in error.errors()
    ]
    return "; ".join(f"{path}: {text}" if path else text for path, text in faults)
