"""What of the plan the round machine needs, and how patient it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fedstudy.aggregator.algorithms.base import Share, TrainStage
from fedstudy.plan import StopWhen, StudyPlan

GRACE_SECONDS = 600.0
"""How long a site's stream may be gone before the others stop waiting for it: more than a network is usually away."""

SLACK = 3.0
"""A site may take so many times what it usually takes before the others go on without it, but never less than the grace."""

FEWEST, LATEST = 2, 5
"""Durations of a site without which nothing is expected of it, and how many of the latest are kept."""

SHARE = 0.8
"""Part of the known training cases that has to be in before a stage is closed ahead of its deadline without a slow site."""


@dataclass(frozen=True)
class Rules:
    """What of the plan the machine needs.

    Attributes:
        train_stages: the algorithm's `stages`.
        timeout: deadline of a stage, in seconds.
        grace: how long a site that is not connected is waited for where the others make a quorum, in seconds.
    """

    rounds: int
    min_sites: int
    min_samples: int
    timeout: float
    evaluate_every: int
    stop_when: StopWhen | None
    seed: int
    train_stages: Callable[[int, Sequence[Share]], list[TrainStage]]
    grace: float = GRACE_SECONDS

    @classmethod
    def of(cls, plan: StudyPlan, train_stages: Callable[[int, Sequence[Share]], list[TrainStage]]) -> Rules:
        """The rules of a plan."""
        f = plan.federation
        return cls(
            rounds=f.rounds,
            min_sites=f.min_sites,
            min_samples=f.min_samples,
            timeout=float(f.round_timeout_seconds),
            evaluate_every=f.evaluate_every,
            stop_when=f.stop_when,
            seed=plan.training.seed,
            train_stages=train_stages,
        )
