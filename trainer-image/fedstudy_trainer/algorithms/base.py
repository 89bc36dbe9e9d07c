"""The site's half of a federated algorithm: how the local objective, or the whole answer, differs from plain descent."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from numpy.typing import NDArray
from torch import Tensor

from fedstudy.plan import StudyPlan

if TYPE_CHECKING:
    from fedstudy_trainer.data.dataset import SplitData
    from fedstudy_trainer.networks import StudyNetwork


class LocalAlgorithm(ABC):
    """Plain local descent; override what differs. One instance serves one round.

    Raises:
        PlanError: (by the constructor) the plan's parameters do not fit the algorithm.
    """

    name: ClassVar[str]

    def __init__(self, plan: StudyPlan) -> None:
        self.plan = plan

    def penalty(self, now: Sequence[Tensor], start: Sequence[Tensor]) -> Tensor | None:
        """What is added to the loss of every step; None: nothing, not even a zero.

        Args:
            now: the network's trainable parameters.
            start: the same as the round began, detached.
        """
        return None

    def answer(self, network: StudyNetwork, cases: SplitData) -> Mapping[str, NDArray[Any]] | None:
        """An answer that is no descent, for example a gradient and an information matrix; None: descend."""
        return None
