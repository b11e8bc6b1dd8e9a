"""All model families. Importing this package registers every factory."""

from torchseg_zoo.models.bisenet import *  # noqa: F403
from torchseg_zoo.models.base import SegmentationModel as SegmentationModel
