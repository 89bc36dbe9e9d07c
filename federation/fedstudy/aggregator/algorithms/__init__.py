"""The aggregator's halves of the algorithms: one small file each, to be read beside the paper."""

from fedstudy.aggregator.algorithms.base import Algorithm, Share, TrainStage, Update
from fedstudy.aggregator.algorithms.registry import algorithm, names

__all__ = ["Algorithm", "Share", "TrainStage", "Update", "algorithm", "names"]
