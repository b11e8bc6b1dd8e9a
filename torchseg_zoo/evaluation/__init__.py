"""Scoring a model on a labelled data set: scores with their protocol, calibration, reports."""

from torchseg_zoo.evaluation.calibration import Calibration, calibrate
from torchseg_zoo.evaluation.protocol import Origin, Protocol
from torchseg_zoo.evaluation.replay import Replay, replay
from torchseg_zoo.evaluation.report import write_report
from torchseg_zoo.evaluation.result import (
    Evaluation,
    PictureScore,
    SkippedPicture,
    read_card,
    write_card,
)
from torchseg_zoo.evaluation.workers import Workers

__all__ = [
    "Calibration",
    "Evaluation",
    "Origin",
    "PictureScore",
    "Protocol",
    "Replay",
    "SkippedPicture",
    "Workers",
    "calibrate",
    "read_card",
    "replay",
    "write_card",
    "write_report",
]
