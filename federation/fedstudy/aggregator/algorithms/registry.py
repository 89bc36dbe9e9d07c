"""Algorithms by name: ours, and those that other packages add by the entry points `fedstudy.algorithms`."""

from __future__ import annotations

from importlib.metadata import entry_points

from fedstudy.aggregator.algorithms.base import Algorithm
from fedstudy.aggregator.algorithms.cyclical import CyclicalWeightTransfer
from fedstudy.aggregator.algorithms.fedavg import FedAvg
from fedstudy.aggregator.algorithms.fedprox import FedProx
from fedstudy.aggregator.algorithms.median import CoordinateMedian
from fedstudy.aggregator.algorithms.newton import NewtonRaphson
from fedstudy.aggregator.algorithms.trimmed_mean import TrimmedMean
from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan

GROUP = "fedstudy.algorithms"
_OURS: dict[str, type[Algorithm]] = {
    cls.name: cls
    for cls in (FedAvg, FedProx, CyclicalWeightTransfer, NewtonRaphson, CoordinateMedian, TrimmedMean)
}


def names() -> list[str]:
    """All names that a plan may give, sorted."""
    return sorted({*_OURS, *(point.name for point in entry_points(group=GROUP))})


def algorithm(plan: StudyPlan) -> Algorithm:
    """The plan's algorithm with its parameters checked.

    Raises:
        PlanError: the name is unknown, a parameter is wrong, or the algorithm does not fit the task.
    """
    name = plan.federation.algorithm.name
    found = find(name)
    if found is None:
        raise PlanError(
            f"federation.algorithm.name: there is no algorithm {name!r}.",
            f"Choose one of {', '.join(names())}, or install the package that adds it.",
        )
    return found(plan)


def find(name: str) -> type[Algorithm] | None:
    """An algorithm's class; None where there is none of that name.

    Raises:
        PlanError: the name is that of an entry point, and what it names is no algorithm.
    """
    if name in _OURS:
        return _OURS[name]
    for point in entry_points(group=GROUP, name=name):
        cls = point.load()
        if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
            raise PlanError(
                f"The entry point {GROUP}:{name} is no Algorithm.", "Correct the package that adds it."
            )
        return cls
    return None
