"""Cyclical weight transfer (Chang et al., JAMIA 2018): the model goes from site to site, each trains it further.

The hub's half orders the sites and gives each its number of steps; the plan's classWeighting SiteBalance makes it the
cyclically weighted loss of Balachandar et al. (JAMIA 2020). At the site it is plain descent.
"""

from __future__ import annotations

from typing import ClassVar

from fedstudy_trainer.algorithms.base import LocalAlgorithm


class CyclicalWeightTransfer(LocalAlgorithm):
    """Nothing to add to plain descent."""

    name: ClassVar[str] = "CyclicalWeightTransfer"
