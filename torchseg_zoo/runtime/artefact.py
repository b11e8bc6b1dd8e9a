"""What an exported file says of itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.data.preprocess import Preprocess
from torchseg_zoo.errors import ExportError
from torchseg_zoo.files import printable
from torchseg_zoo.types import Size

__all__ = ["FORMAT", "METADATA_KEY", "Artefact"]

METADATA_KEY = "torchseg_zoo"
"""Name of the metadata entry that holds the record, as JSON."""

FORMAT = 1


@dataclass(frozen=True)
class Artefact:
    """The record in an exported file.

    Args:
        model: factory name.
        checkpoint: name of the released checkpoint, or "".
        weights_sha256: digest of the model's weights before the export.
        labels: classes and colours.
        preprocess: how pictures become input; normalisation is in the graph unless ``layout`` is
            ``"float"``, resizing is not.
        size: the one (height, width) that the file takes; ``None`` for any.
        layout: what goes in, see ``export.graph.InputLayout``.
        output: what comes out, see ``export.graph.Output``.
        precision: of the network: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        version: of this package when it was exported.
    """

    model: str
    checkpoint: str
    weights_sha256: str
    labels: LabelSet
    preprocess: Preprocess
    size: Size | None
    layout: str
    output: str
    precision: str
    version: str

    def to_json(self) -> str:
        """The record as it stands in the file."""
        record: dict[str, Any] = {
            "format": FORMAT,
            **{
                name: getattr(self, name)
                for name in (
                    "model",
                    "checkpoint",
                    "weights_sha256",
                    "layout",
                    "output",
                    "precision",
                    "version",
                )
            },
            "labels": self.labels.to_dict(),
            "preprocess": self.preprocess.to_dict(),
            "size": None if self.size is None else list(self.size),
        }
        return json.dumps(record, sort_keys=True)

    @classmethod
    def from_json(cls, text: str | None, where: object) -> Artefact:
        """Reads the form written by ``to_json``.

        Args:
            text: the metadata entry, if the file has one.
            where: the file, for errors.

        Raises:
            ExportError: if there is no record, or none that this version can read.
        """
        if text is None:
            raise ExportError(
                "was not exported by torchseg-zoo, so its classes and its input are unknown",
                where=printable(where),
                fix="export the model with `torchseg-zoo export`",
            )
        try:
            record: Mapping[str, Any] = json.loads(text)
            if record["format"] != FORMAT:
                raise ValueError(f"format {record['format']!r} is not {FORMAT}")
            size = record["size"]
            return cls(
                model=str(record["model"]),
                checkpoint=str(record["checkpoint"]),
                weights_sha256=str(record["weights_sha256"]),
                labels=LabelSet.from_dict(record["labels"]),
                preprocess=Preprocess.from_dict(record["preprocess"]),
                size=None if size is None else (int(size[0]), int(size[1])),
                layout=str(record["layout"]),
                output=str(record["output"]),
                precision=str(record["precision"]),
                version=str(record["version"]),
            )
        except (ValueError, LookupError, TypeError) as error:
            raise ExportError(
                "its record cannot be read by this version of torchseg-zoo",
                where=printable(where),
                why=f"{type(error).__name__}: {error}",
                fix="update torchseg-zoo, or export the model again",
            ) from error
