"""A page in the browser to try models on pictures. Needs the extra ``demo`` (Gradio).

``serve`` runs it. The page and its limits are in one process, the models in another (``worker``),
which may be ended when a picture takes too long or too much memory.
"""

from __future__ import annotations

from torchseg_zoo.demo.config import DemoConfig
from torchseg_zoo.demo.serve import serve

__all__ = ["DemoConfig", "serve"]
