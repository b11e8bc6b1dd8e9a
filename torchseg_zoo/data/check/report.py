"""The outcome of looking at a data set: for people as text, for programs as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchseg_zoo.data.check.finding import Finding
from torchseg_zoo.data.check.mapping import Proposal
from torchseg_zoo.data.class_weights import balanced_weights
from torchseg_zoo.data.labels import LabelSet
from torchseg_zoo.errors import DataError
from torchseg_zoo.files import atomic_write, make_folder, printable

__all__ = ["DataReport"]


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what is wrong with it.

    Args:
        labels: what the label values were taken for.
        samples: split → number of samples looked at.
        findings: kinds of problems, the worst first.
        values: number in the label files → pixels.
        colors: packed colour → pixels, of painted label maps.
        counts: (256,) int64 pixels per train id, read with the proposal where there is one.
        maps: (256,) int64 label maps that show it.
        train_counts: as ``counts``, of the first split alone; the class weights follow it.
        proposal: a mapping for values or colours that are no class indices.
    """

    labels: LabelSet
    samples: Mapping[str, int]
    findings: tuple[Finding, ...]
    values: Mapping[int, int]
    colors: Mapping[int, int]
    counts: np.ndarray
    maps: np.ndarray
    train_counts: np.ndarray
    proposal: Proposal | None

    @property
    def exit_code(self) -> int:
        """0 if nothing was found, 1 for warnings alone, else that of ``DataError``."""
        if any(finding.severity == "error" for finding in self.findings):
            return DataError.exit_code
        return 1 if self.findings else 0

    @property
    def read_as(self) -> LabelSet:
        """The proposed label set, or the one that was given."""
        return self.proposal.labels if self.proposal else self.labels

    def class_weights(self) -> list[float]:
        """K suggested weights, those of ``class_weights="balanced"``; 4 digits."""
        weights = balanced_weights(self.train_counts[: self.labels.num_classes])
        return [float(f"{weight:.4g}") for weight in weights]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form."""
        classes = self.read_as
        shares = _percent(self.counts)
        return {
            "samples": dict(self.samples),
            "exit_code": self.exit_code,
            "findings": [asdict(finding) for finding in self.findings],
            "values": {str(value): pixels for value, pixels in sorted(self.values.items())},
            "colors": {f"{color:06x}": pixels for color, pixels in self.colors.items()},
            "classes": [
                {
                    "index": index,
                    "name": name,
                    "pixels": int(self.counts[index]),
                    "share_percent": round(float(shares[index]), 4),
                    "label_maps": int(self.maps[index]),
                }
                for index, name in enumerate(classes.classes)
            ],
            "ignore_index": classes.ignore_index,
            "ignored_percent": round(float(shares[classes.num_classes :].sum()), 4),
            "class_weights": self.class_weights(),
            "proposal": self.proposal
            and {"words": self.proposal.words, "labels": self.proposal.labels.to_dict()},
        }

    def text(self) -> str:
        """The report for people."""
        how = "; counted with the proposed mapping" if self.proposal else ""
        samples = ", ".join(f"{n} {split}" for split, n in self.samples.items())
        lines = [f"looked at {samples}{how}"]
        lines += self._class_table()
        for finding in self.findings:
            lines += ["", f"{finding.severity} ({finding.split}): {finding.what}"]
            lines += [f"  {file}" for file in finding.files]
            if finding.num_files > len(finding.files):
                lines.append(f"  and {finding.num_files - len(finding.files)} more")
            lines.append(f"  -> {finding.fix}")
        if self.proposal:
            lines += ["", f"proposed mapping: {self.proposal.words}", *self._mapping_table()]
        if not self.findings:
            lines += ["", "nothing found"]
        return "\n".join(printable(line) for line in lines) + "\n"

    def save(self, folder: str | Path) -> list[Path]:
        """Writes ``report.txt``, ``report.json`` and, with a proposal, ``classes.json``.

        ``classes.json`` is a classes file: ``--classes`` takes it, and so does the data's folder.

        Returns:
            The files.

        Raises:
            DataError: if they cannot be written.
        """
        target = make_folder(Path(folder))
        texts = {"report.txt": self.text(), "report.json": _json(self.to_dict())}
        if self.proposal:
            texts["classes.json"] = _json(self.proposal.labels.to_dict())
        for name, text in texts.items():
            content = text.encode()
            atomic_write(target / name, lambda stream, content=content: stream.write(content))  # type: ignore[misc]
        return [target / name for name in texts]

    def _class_table(self) -> list[str]:
        classes = self.read_as
        shares = _percent(self.counts)
        width = max(len(name) for name in classes.classes)
        lines = [f"{'class':>5}  {'':<{width}}  {'pixels':>8}  {'maps':>6}  weight"]
        for index, (name, weight) in enumerate(
            zip(classes.classes, self.class_weights(), strict=True)
        ):
            lines.append(
                f"{index:>5}  {name:<{width}}  {shares[index]:>6.2f} %  {self.maps[index]:>6}"
                f"  {weight:g}"
            )
        ignored = shares[classes.num_classes :].sum()
        return [*lines, f"{classes.ignore_index:>5}  {'ignored':<{width}}  {ignored:>6.2f} %"]

    def _mapping_table(self) -> list[str]:
        assert self.proposal is not None
        labels = self.proposal.labels
        pairs = [(str(raw), train) for raw, train in (labels.raw_ids or {}).items()]
        pairs += [(bytes(color).hex(), train) for color, train in (labels.raw_colors or {}).items()]
        named = [
            f"  {raw} -> {train} {labels.classes[train]}"
            for raw, train in pairs
            if train < labels.num_classes
        ]
        return [*named, f"  all else -> {labels.ignore_index} ignored"]


def _percent(counts: np.ndarray) -> np.ndarray:
    share: np.ndarray = 100 * counts / max(1, int(counts.sum()))
    return share


def _json(record: dict[str, Any]) -> str:
    return json.dumps(record, indent=1, ensure_ascii=False) + "\n"
