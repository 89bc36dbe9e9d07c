"""Networks by name from an allow-list: ours (SmallCNN, Linear, MLP) and classifiers of monai.networks.nets."""

from fedstudy_trainer.networks.base import Shape, StudyNetwork, shape_of
from fedstudy_trainer.networks.registry import build, network_names
from fedstudy_trainer.networks.state import initial_state, load_state, weights

__all__ = [
    "Shape",
    "StudyNetwork",
    "build",
    "initial_state",
    "load_state",
    "network_names",
    "shape_of",
    "weights",
]
