"""Coordinate-wise trimmed mean (Yin et al., ICML 2018, option II): the mean without the b largest and b smallest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field, field_validator

from fedstudy.aggregator.algorithms.base import Algorithm, Update
from fedstudy.aggregator.algorithms.robust import fold_sorted
from fedstudy.errors import PlanError
from fedstudy.plan import Model, StudyPlan
from fedstudy.tensors import Array, Blob, TensorFile


class TrimmedMean(Algorithm):
    """w_j ← mean of w_k,j without the b lowest and the b highest sites, for each number j, b < K/2.

    Bears b sites being wrong. Unweighted: `federation.weights` has no effect.
    """

    name: ClassVar[str] = "TrimmedMean"

    class Parameters(Model):
        """Parameters of the trimmed mean."""

        trim: Annotated[float, Field(ge=0, le=127, allow_inf_nan=False)] = Field(
            default=0.2,
            description="How much is cut off at each end: below 0.5 the fraction of the sites of a round, rounded down (0.2 cuts nothing with fewer than 5); from 1 on the number b of sites, for which federation.minSites must be above 2·b.",
        )

        @field_validator("trim")
        @classmethod
        def _fraction_or_count(cls, trim: float) -> float:
            if trim >= 0.5 and not trim.is_integer():
                raise ValueError("is neither a fraction below 0.5 nor a whole number of sites")
            return trim

    parameters: Parameters

    def __init__(self, plan: StudyPlan) -> None:
        super().__init__(plan)
        least = plan.federation.min_sites
        if 2 * self.cut(least) >= least:
            raise PlanError(
                f"federation.algorithm.parameters.trim: {self.cut(least)} sites at each end leave none of {least} (federation.minSites).",
                "Trim fewer, or raise federation.minSites above twice as many.",
            )

    def cut(self, sites: int) -> int:
        """b, the sites that are left out at each end."""
        trim = self.parameters.trim
        return int(trim * sites) if trim < 1 else int(trim)

    def fold(self, model: TensorFile, updates: Sequence[Update], out: Path) -> Blob:
        """The mean of what is left, added up in float64 in ascending order."""
        sites, b = len(updates), self.cut(len(updates))

        def kept_mean(values: Array) -> Array:
            mean: Array = values[b : sites - b].sum(axis=0) / (sites - 2 * b)
            return mean

        return fold_sorted(model, updates, out, kept_mean)
