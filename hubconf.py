"""Entry points for ``torch.hub.load(<owner>/<repo> or a checkout, "bisenet_x39", "camvid")``."""

dependencies = [
    "torch",
    "torchvision",
    "timm",
    "huggingface_hub",
    "safetensors",
    "numpy",
    "PIL",
    "tqdm",
]

from torchseg_zoo import registry as _registry  # noqa: E402

globals().update({name: _registry.model_factory(name) for name in _registry.list_models()})
