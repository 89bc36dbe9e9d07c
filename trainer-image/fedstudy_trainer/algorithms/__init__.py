"""Federated algorithms, the site's halves; more come by the entry points group `fedstudy_trainer.algorithms`."""

from __future__ import annotations

from importlib.metadata import entry_points

from fedstudy.errors import PlanError
from fedstudy.plan import StudyPlan
from fedstudy_trainer.algorithms.base import LocalAlgorithm
from fedstudy_trainer.algorithms.cyclical import CyclicalWeightTransfer
from fedstudy_trainer.algorithms.fedavg import FedAvg
from fedstudy_trainer.algorithms.fedprox import FedProx
from fedstudy_trainer.algorithms.newton import NewtonRaphson
from fedstudy_trainer.algorithms.robust import CoordinateMedian, TrimmedMean

__all__ = ["LocalAlgorithm", "local_algorithm"]

ENTRY_POINTS = "fedstudy_trainer.algorithms"

_OURS: dict[str, type[LocalAlgorithm]] = {
    kind.name: kind
    for kind in (FedAvg, FedProx, CyclicalWeightTransfer, NewtonRaphson, CoordinateMedian, TrimmedMean)
}


def local_algorithm(plan: StudyPlan) -> LocalAlgorithm:
    """The site's half of the plan's algorithm.

    Raises:
        PlanError: no such algorithm is installed here, or its parameters are wrong.
    """
    name = plan.federation.algorithm.name
    if name in _OURS:
        return _OURS[name](plan)
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, LocalAlgorithm)):
            raise PlanError(f"The installed algorithm {name} ({entry.value}) is not a LocalAlgorithm.")
        return kind(plan)
    raise PlanError(
        f"federation.algorithm.name: {name} is not installed in this trainer.",
        f"It has: {', '.join(_OURS)}; others need a trainer image with their package.",
    )
