"""The certificate: what was checked, on which inputs, with which differences; plain data that becomes JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal

Status = Literal["verified", "unverified", "failed"]


@dataclass(frozen=True, slots=True)
class OutputDifference:
    """How far one output is off on one probe."""

    name: str
    """Name of the output."""
    max_abs: float = 0.0
    """Largest absolute difference of finite elements."""
    max_rel: float = 0.0
    """The same over the largest magnitude of the reference."""
    why: str = ""
    """What is wrong, when it is out of tolerance and not forgiven."""
    nan: bool = False
    """Whether the reference is NaN or infinite throughout, so that the comparison says little."""


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """One comparison: a probe, a way to run, and every output."""

    probe: str
    """Name of the probe: binding and manner."""
    kind: str
    """``user``, or the manner in which values were drawn."""
    how: str
    """``plain`` (without the runtime's optimizer) or ``deployed`` (with the settings that the result is for)."""
    binding: Mapping[str, int]
    """Sizes of the dynamic dims."""
    outputs: tuple[OutputDifference, ...]
    """Every output."""

    @property
    def max_rel(self) -> float:
        """The largest relative difference of all outputs."""
        return max((o.max_rel for o in self.outputs), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON."""
        outputs = {
            o.name: {
                "max_abs": _number(o.max_abs),
                "max_rel": _number(o.max_rel),
                **({"why": o.why} if o.why else {}),
                **({"nan": True} if o.nan else {}),
            }
            for o in self.outputs
        }
        binding = {k: v for k, v in self.binding.items() if not k.startswith("?")}
        return {"probe": self.probe, "kind": self.kind, "how": self.how, "binding": binding, "outputs": outputs}


@dataclass(frozen=True, slots=True)
class Certificate:
    """What was checked and what came of it.

    ``verified``: the emitted model ran as emitted and as deployed, and agreed.  ``unverified``: nothing spoke
    against it, but the original could not be run here.  ``failed``: it must not be handed over.
    """

    status: Status
    """The verdict."""
    reason: str = ""
    """Why it is not verified, in one sentence."""
    guilty: tuple[str, ...] = ()
    """Rules and passes that are known, or most likely, to be at fault."""
    probes: tuple[ProbeResult, ...] = ()
    """All comparisons."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Probes that the original does not run, and why."""
    regions: Mapping[str, Any] = field(default_factory=dict)
    """Rewrites checked, unchecked with reasons, failures."""
    stochastic: bool = False
    """Whether outputs depend on random numbers; these are compared by type and shape."""
    tolerance: Mapping[str, Any] = field(default_factory=dict)
    """Bounds by element type."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of what ran."""
    hashes: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the files, where they are files."""
    notes: tuple[str, ...] = ()
    """What a reader should know besides."""
    seed: int = 0
    """What the generated inputs were drawn from: equal seeds give equal inputs."""
    seconds: float = 0.0
    """Wall time of the verification; not part of the JSON, which is the same for equal builds."""

    @property
    def verified(self) -> bool:
        """True when the result ran and agreed."""
        return self.status == "verified"

    @property
    def accepted(self) -> bool:
        """True when nothing speaks against handing the result over."""
        return self.status != "failed"

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as JSON; deterministic for equal inputs and versions."""
        return {
            "status": self.status,
            "reason": self.reason,
            "guilty": list(self.guilty),
            "probes": [p.to_json() for p in self.probes],
            "refused": dict(self.refused),
            "regions": dict(self.regions),
            "seed": self.seed,
            "stochastic": self.stochastic,
            "tolerance": dict(self.tolerance),
            "versions": dict(self.versions),
            "hashes": dict(self.hashes),
            "notes": list(self.notes),
        }

    def summary(self) -> str:
        """Return the certificate as one line."""
        if self.status != "verified":
            return f"{self.status}: {self.reason}"
        worst = max((p.max_rel for p in self.probes), default=0.0)
        checked = self.regions.get("checked", 0)
        bindings = len({tuple(sorted(p.binding.items())) for p in self.probes})
        parts = [
            f"{len(self.probes)} comparisons at {bindings} size{'s' * (bindings != 1)}",
            f"largest difference {worst:.1e}",
        ]
        if self.regions:
            parts.append(f"{checked} rewrites checked")
        return "verified: " + ", ".join(parts)

    def render_rows(self) -> list[tuple[str, str, str, str, str]]:
        """Return rows for a table: probe, how it ran, output, largest absolute and relative difference."""
        return [
            (p.probe, p.how, o.name, f"{o.max_abs:.2e}", o.why or f"{o.max_rel:.2e}")
            for p in self.probes
            for o in p.outputs
        ]


def versions() -> dict[str, str]:
    """Return the versions of ampc and of what it stands on."""
    found = {}
    for name in ("ampc", "onnx", "onnxruntime", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else str(value)
