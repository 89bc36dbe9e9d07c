"""FedProx (Li et al., MLSys 2020): FedAvg whose sites add (μ/2)·‖w_k − w‖² to their loss."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fedstudy.aggregator.algorithms.fedavg import FedAvg
from fedstudy.plan import NonNegativeFloat, Parameter


class FedProx(FedAvg):
    """The fold is FedAvg's; the sites are told μ. With μ = 0 it is FedAvg, bit for bit."""

    name: ClassVar[str] = "FedProx"

    class Parameters(FedAvg.Parameters):
        """Parameters of FedProx."""

        mu: NonNegativeFloat = Field(
            default=0.01, description="μ, the strength of the pull towards the shared model."
        )

    parameters: Parameters

    def site_parameters(self, round: int, site: str) -> dict[str, Parameter]:
        """FedAvg's parameters, and μ."""
        return {**super().site_parameters(round, site), "mu": self.parameters.mu}
