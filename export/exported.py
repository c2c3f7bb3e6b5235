"""What an export gives."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from dkcam.export.parity import CEILING, FACTOR, MOST_KINKS, TOLERANCE, Parity
from dkcam.export.precision.build import LowPrecision
from dkcam.spec import ModelSpec


@dataclass(frozen=True)
class Exported:
    """The file's bytes, its spec, the parity figures (None with verification left out), and what was taken for granted, in words."""

    data: bytes = field(repr=False)
    spec: ModelSpec
    parity: Parity | None
    low: LowPrecision | None = None
    notes: tuple[str, ...] = ()

    def report(self) -> Mapping[str, Any]:
        """What ``--report`` writes: the spec, every row, the limits, sizes."""
        parity = self.parity or Parity()
        return {
            "spec": json.loads(self.spec.to_json()),
            "bytes": len(self.data),
            # the limit of a map: tolerance, or float32_factor times the error of float32 itself, never above ceiling
            "tolerance": TOLERANCE,
            "float32_factor": FACTOR,
            "ceiling": CEILING,
            "verified": self.parity is not None,
            "input_dependence": parity.input_dependence,
            "kinks": parity.kinks if self.parity else None,
            "kink_units": parity.units if self.parity else None,
            "most_kinks": MOST_KINKS,
            "finite_differences": parity.differences,
            "attention_score": parity.score if self.parity else None,
            "pictures": parity.images,
            "pictures_without_optimisations": parity.plainly if self.parity else None,
            "classes_judged": parity.classes if self.parity else None,
            "fidelity": self.low.fidelity.figures() if self.low and self.low.fidelity else None,
            "kept": [asdict(layer) for layer in self.low.kept] if self.low else [],
            "parity": [asdict(row) | {"passed": row.passed} for row in parity.rows],
        }
