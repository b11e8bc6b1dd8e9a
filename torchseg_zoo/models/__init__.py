"""All model families. Importing this package registers every factory."""

from torchseg_zoo.models import (
    bisenet,
    deeplabv3,
    deeplabv3plus,
    denseaspp,
    dfn,
    encnet,
    fcn,
    ocnet,
    psanet,
    pspnet,
)
from torchseg_zoo.models.bisenet import *  # noqa: F403
from torchseg_zoo.models.deeplabv3 import *  # noqa: F403
from torchseg_zoo.models.deeplabv3plus import *  # noqa: F403
from torchseg_zoo.models.denseaspp import *  # noqa: F403
from torchseg_zoo.models.dfn import *  # noqa: F403
from torchseg_zoo.models.encnet import *  # noqa: F403
from torchseg_zoo.models.fcn import *  # noqa: F403
from torchseg_zoo.models.ocnet import *  # noqa: F403
from torchseg_zoo.models.psanet import *  # noqa: F403
from torchseg_zoo.models.pspnet import *  # noqa: F403

__all__ = [
    *bisenet.__all__,
    *deeplabv3.__all__,
    *deeplabv3plus.__all__,
    *denseaspp.__all__,
    *dfn.__all__,
    *encnet.__all__,
    *fcn.__all__,
    *ocnet.__all__,
    *psanet.__all__,
    *pspnet.__all__,
]
