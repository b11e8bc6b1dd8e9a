"""All model families, one line each. Importing this package registers every factory."""

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
