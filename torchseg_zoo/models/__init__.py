"""All model families. Importing this package registers every factory."""

from torchseg_zoo.models import bisenet
from torchseg_zoo.models.bisenet import *  # noqa: F403

__all__ = [*bisenet.__all__]
