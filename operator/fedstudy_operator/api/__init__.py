"""The custom resources of `fedstudy.io/v1alpha1`: what people write, what they read, and the rules between fields."""

from fedstudy_operator.api.conditions import Condition, Reason
from fedstudy_operator.api.dataset import SiteDataset
from fedstudy_operator.api.meta import API_VERSION, GROUP, VERSION
from fedstudy_operator.api.participant import SiteParticipant
from fedstudy_operator.api.study import FederatedStudy

__all__ = [
    "API_VERSION",
    "GROUP",
    "VERSION",
    "Condition",
    "FederatedStudy",
    "Reason",
    "SiteDataset",
    "SiteParticipant",
]
