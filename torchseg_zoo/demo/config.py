"""What a demo shows, to whom, and how much it does for one user."""

from __future__ import annotations

from dataclasses import dataclass

from torchseg_zoo.errors import ArgumentError

__all__ = ["DemoConfig"]


@dataclass(frozen=True)
class DemoConfig:
    """Settings of a demo.

    Args:
        model: checkpoint that is chosen at first, as ``"model.tag"``.
        checkpoint: model file of one's own, which is then chosen at first instead.
        device: as in ``find_device``.
        host: address that is listened on; others can reach the page only if it is not loopback.
        port: TCP port; 0 for a free one.
        root_path: path under which a proxy shows the page, such as ``"/demo"``.
        downloads: let users fetch released checkpoints that are not on this machine.
        max_pixels: largest width times height of a picture; its header decides.
        max_upload_bytes: largest file.
        time_limit_s: seconds that labelling one picture may take, without waiting and loading.
        queue_size: pictures that may wait; more are turned away with a message.

    Raises:
        ArgumentError: if a number is out of range.
    """

    model: str = "bisenet_x39.camvid"
    checkpoint: str | None = None
    device: str = "auto"
    host: str = "127.0.0.1"
    port: int = 7860
    root_path: str = ""
    downloads: bool = True
    max_pixels: int = 16_000_000
    max_upload_bytes: int = 64 << 20
    time_limit_s: float = 60.0
    queue_size: int = 32

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ArgumentError(f"{self.port} is no port", where="port", fix="give 0 to 65535")
        for name in ("max_pixels", "max_upload_bytes", "time_limit_s", "queue_size"):
            if getattr(self, name) <= 0:
                raise ArgumentError(
                    f"{getattr(self, name)} is not above 0",
                    where=name,
                    fix="give a positive number",
                )
