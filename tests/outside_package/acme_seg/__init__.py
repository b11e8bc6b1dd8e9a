"""A package of somebody else's: a head on the zoo's backbones, a backbone under the zoo's heads."""

from acme_seg.backbone import acmenet
from acme_seg.head import Lite, LiteConfig, lite_acme, lite_r18

__all__ = ["Lite", "LiteConfig", "acmenet", "lite_acme", "lite_r18"]
