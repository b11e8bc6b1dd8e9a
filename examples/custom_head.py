"""Your own head on any backbone: registered, trained for a moment, saved, loaded, exported.

python examples/custom_head.py
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

import torchseg_zoo as tsz
from torchseg_zoo.backbones import create_backbone
from torchseg_zoo.data.datasets import DrawnStreets
from torchseg_zoo.layers import ConvNormAct
from torchseg_zoo.models.base import ModelConfig, SegmentationModel, build
from torchseg_zoo.types import SegOutput


@dataclass(frozen=True)
class SumConfig(ModelConfig):
    """What rebuilds the model; ``width`` is this family's own field."""

    width: int = 32


class SumNet(SegmentationModel):
    """Adds up four maps, each brought to one width and to the size of the finest."""

    config_class = SumConfig

    def __init__(self, config: SumConfig, *, pretrained_backbone: bool = False) -> None:
        super().__init__(config)
        self.backbone = create_backbone(
            config.backbone, in_channels=config.in_channels, pretrained=pretrained_backbone
        )
        self.lateral = nn.ModuleList(ConvNormAct(c, config.width) for c in self.backbone.channels)
        self.classifier = nn.Conv2d(config.width, config.num_classes, 1)

    def head_logits(self, x: torch.Tensor, *, with_aux: bool) -> SegOutput:
        """Logits at the stride of the finest map; this head has no auxiliary outputs."""
        maps = [layer(y) for layer, y in zip(self.lateral, self.backbone(x), strict=True)]
        fine = sum(self._to_size(y, tuple(maps[0].shape[-2:])) for y in maps)
        return SegOutput(self.classifier(fine), {})

    def classifiers(self) -> dict[str, nn.Conv2d]:
        """Where the classes are put out: ``reset_classifier`` replaces these."""
        return {"classifier": self.classifier}


@tsz.register_model
def sumnet_r18(
    pretrained: str | None = None, *, num_classes: int | None = None, in_channels: int = 3,
    backbone: str = "resnet18", pretrained_backbone: bool = False, width: int = 32,
) -> SumNet:  # fmt: skip
    """SumNet on ResNet-18, or on any timm backbone with four maps."""
    config = SumConfig("sumnet_r18", backbone, in_channels=in_channels, width=width)
    return build(
        SumNet, config, pretrained, num_classes=num_classes, pretrained_backbone=pretrained_backbone
    )


streets = DrawnStreets(2, size=(64, 96))
for backbone in ("resnet18", "mobilenetv3_small_050"):
    print(tsz.summary(tsz.create_model("sumnet_r18", backbone=backbone), size=(64, 96)))
with tempfile.TemporaryDirectory() as folder:
    config = tsz.TrainConfig(model="sumnet_r18", out=folder, epochs=1, batch_size=2, crop=(64, 64))
    result = tsz.train(config, train_set=streets, val_set=streets, progress=False)
    trained = tsz.load_model(Path(result.best))
print(tsz.predict(trained, streets[0].image).shares)
exported = torch.export.export(trained, (torch.zeros(1, 3, 64, 96),))
print("exported with", len(exported.state_dict), "tensors")
