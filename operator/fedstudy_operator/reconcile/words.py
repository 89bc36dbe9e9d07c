"""Words of other parties in our terms: reasons that processes give, faults that pydantic finds."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from fedstudy_operator.api.conditions import Reason

_PATH = re.compile(r"(^|; )(?=[a-z][\w./\[\]-]*: )")
"""Before each field path of a text such as `federation.minSites: is 4, …; sites: names a twice`."""


def reason_of(text: str, default: Reason) -> Reason:
    """The reason of that name, or the default where there is none."""
    return Reason(text) if text in Reason._value2member_map_ else default


def fault_text(error: ValidationError) -> str:
    """All faults of a resource in one line: field path and what is wrong."""
    faults = []
    for entry in error.errors():
        path = ".".join(str(part) for part in entry["loc"])
        text = entry["msg"].removeprefix("Value error, ")
        if path and _PATH.match(text):  # of a rule between fields: it names them as they stand below this one
            faults.append(_PATH.sub(rf"\1{path}.", text))
        else:
            faults.append(f"{path}: {text}" if path else text)
    return "; ".join(faults)


def main_metric(metrics: Mapping[str, float]) -> tuple[str, float] | None:
    """The metric that is shown first."""
    for name in ("auc", "c_index", "accuracy", "log_loss"):
        if name in metrics:
            return name, metrics[name]
    return None
