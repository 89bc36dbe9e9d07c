"""Several sites' data as if they were one: what the pooled control learns from, and no hospital ever has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from fedstudy.plan import StudyPlan
from fedstudy_trainer.data.dataset import SiteData, SplitData
from fedstudy_trainer.data.splits import Split


class PooledData(SiteData):
    """The cases of all sites, one site after the other in every split. Volumes stay in the sites' files."""

    def __init__(self, plan: StudyPlan, sites: Sequence[SiteData]) -> None:
        self.plan = plan
        self.covariate_names = sites[0].covariate_names
        self._sites = sites
        self._splits: dict[Split, SplitData] = {}

    def strata(self) -> NDArray[np.int64]:
        """[training cases] the site that each is of."""
        sizes = [len(site.cases(Split.TRAINING)) for site in self._sites]
        return np.repeat(np.arange(len(sizes)), sizes)

    def _make(self, split: Split) -> SplitData:
        parts = [site.cases(split) for site in self._sites]
        volumes = [part.images for part in parts if part.images is not None]
        return SplitData(
            images=cast("NDArray[np.float32]", _Volumes(volumes)) if volumes else None,
            presence=np.concatenate([part.presence for part in parts]),
            covariates=np.concatenate([part.covariates for part in parts]),
            labels=np.concatenate([part.labels for part in parts]),
            times=np.concatenate([part.times for part in parts]),
            events=np.concatenate([part.events for part in parts]),
        )


class _Volumes:
    """Arrays [n_k, C, X, Y, Z] indexed as if concatenated; only the volumes asked for are read."""

    def __init__(self, arrays: Sequence[NDArray[np.float32]]) -> None:
        self._arrays = arrays
        self._ends = np.cumsum([len(array) for array in arrays])

    def __getitem__(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        places = np.searchsorted(self._ends, indices, side="right")
        starts = np.concatenate([[0], self._ends[:-1]])
        return np.stack([self._arrays[k][i - starts[k]] for k, i in zip(places, indices, strict=True)])
