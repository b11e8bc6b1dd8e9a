"""Entry points for ``torch.hub.load(<owner>/<repo> or a checkout, "bisenet_x39", "camvid")``."""

dependencies = ["torch", "torchvision", "timm", "safetensors", "numpy", "PIL", "tqdm"]

from torchseg_zoo.models import *  # noqa: E402
