"""Algorithms by name: ours, and those that other packages add by the entry points `fedstudy.algorithms`."""

from __future__ import annotations

from importlib.metadata import entry_points

from fedstudy.aggregator.algorithms.base import Algorithm
from fedstudy.aggregator.algorithms.cyclical import CyclicalWeightTransfer
from fedstudy.aggregator.algorithms.fedavg import FedAvg
from fedstudy.aggregator.algorithms.fedprox import FedProx
from fedstudy.aggregator.algorithms.newton import NewtonRaphson
from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan

GROUP = "fedstudy.algorithms"
_OURS: dict[str, type[Algorithm]] = {
    cls.name: cls for cls in (FedAvg, FedProx, CyclicalWeightTransfer, NewtonRaphson)
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
    return _class(name)(plan)


def _class(name: str) -> type[Algorithm]:
    if name in _OURS:
        return _OURS[name]
    for point in entry_points(group=GROUP):
        if point.name == name:
            cls = point.load()
            if not (isinstance(cls, type) and issubclass(cls, Algorithm)):
                raise PlanError(
                    f"The entry point {GROUP}:{name} is no Algorithm.", "Correct the package that adds it."
                )
            return cls
    raise PlanError(
        f"federation.algorithm.name: there is no algorithm {name!r}.",
        f"Choose one of {', '.join(names())}, or install the package that adds it.",
    )
