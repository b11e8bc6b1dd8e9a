"""Counts of right and wrong pixels, and the scores that follow from them, all in percent."""

from torchseg_zoo.metrics.boundary import BoundaryOverlap
from torchseg_zoo.metrics.confusion import ConfusionMatrix, count_pairs, overlaps
from torchseg_zoo.metrics.reliability import Reliability, ReliabilityCounts
from torchseg_zoo.metrics.scores import Scores, picture_scores, scores_of

__all__ = [
    "BoundaryOverlap",
    "ConfusionMatrix",
    "Reliability",
    "ReliabilityCounts",
    "Scores",
    "count_pairs",
    "overlaps",
    "picture_scores",
    "scores_of",
]
