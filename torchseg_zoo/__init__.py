"""Semantic segmentation models with released weights."""

from torchseg_zoo._version import __version__ as __version__
