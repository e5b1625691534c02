"""The metadata of an optimization: a typed record of what was done to a model, for whom, and what was checked.

It says in one place, for programs, what the report and ``ampc.json`` say for the compiler: target, settings,
decisions, operator counts before and after, verification, measured times, versions and hashes.  Its form is published:
these classes are the definition, their field docstrings the manual, and ``metadata.schema.json`` beside this module is
the JSON schema made from them.  Equal builds give equal metadata: how long compiling took is not part of it.

Considered and rejected: a schema written by hand, with a validator library.  It would be a second definition that
drifts from the first, and one more dependency.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from compiler.backend import bundle
from compiler.errors import InputError
from compiler.operators import counts_by_type
from compiler.ruling import STAGES

if TYPE_CHECKING:
    from compiler.result import Result
    from targets import Target

FORMAT = 1
"""Version of the form; it grows when a reader of the old form would go wrong."""

SCHEMA = "metadata.schema.json"
"""Name of the published schema, in the folder of this module."""


class Part(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the metadata."""


class Source(Part, frozen=True):
    """The model that was optimized."""

    name: str
    """Its file name, or ``ModelProto``."""
    sha256: str
    """Digest of the file; empty for a model in memory."""


class TargetFacts(Part, frozen=True):
    """What the model was optimized for."""

    name: str
    """The target's name."""
    summary: str
    """Its own line about itself."""
    isa: list[str]
    """Instruction set extensions."""
    cores: int
    """Cores that inference may use."""
    providers: list[str]
    """Execution providers in order of priority."""
    detected: bool
    """Whether the machine was read from the machine that ampc ran on."""
    config: dict[str, str | int | float | bool]
    """What the caller set otherwise than the target does."""


class Settings(Part, frozen=True):
    """How ONNX Runtime is to be set up for the optimized model."""

    providers: list[tuple[str, dict[str, str]]]
    """Execution providers in order, each with its options."""
    session_options: dict[str, str | int | float | bool]
    """Fields of ``SessionOptions``."""
    config_entries: dict[str, str]
    """Session config entries."""


class RuleFacts(Part, frozen=True):
    """What one rule did that was tried."""

    stage: Literal["canonical", "raise", "optimize", "lower", "expand", ""]
    """What it is for."""
    tries: int
    """Places that were looked at."""
    hits: int
    """Rewrites that were kept."""
    refusals: dict[str, int]
    """Why it left places alone, and how often."""


class PassFacts(Part, frozen=True):
    """What one run of one pass did."""

    name: str
    """The pass."""
    changed: bool
    """Whether it changed the graph."""
    rewrites: int
    """Changes that it made."""
    kinds: dict[str, int]
    """The changes by kind."""
    refusals: dict[str, int]
    """Why it left things alone, and how often."""
    nodes_before: int
    """Nodes before it ran."""
    nodes_after: int
    """Nodes after."""
    error: str
    """Why it was undone; empty when it was not."""


class Decisions(Part, frozen=True):
    """What was decided, and by what."""

    pipeline: str
    """The passes in order, as text."""
    select: str
    """How forms of operators were chosen."""
    disabled: list[str]
    """Passes and rules that the caller left out."""
    rolled_back: dict[str, str]
    """Passes and rules that verification left out, and why."""
    choices: list[dict[str, Any]]
    """Choices between forms of an operator: place, candidates with predicted costs, what was chosen and why."""
    rules: dict[str, RuleFacts]
    """Each rule that was tried."""
    passes: list[PassFacts]
    """Each run of each pass, in order."""


class Counts(Part, frozen=True):
    """What a model is made of."""

    nodes: int
    """Nodes, those of nested graphs included."""
    bytes: int
    """Bytes of constants."""
    opset: int
    """Version of ai.onnx; 0 when it is not known."""
    operators: dict[str, int]
    """Nodes by operator, with its domain unless it is ai.onnx."""
    types: dict[str, int]
    """Nodes by operator type."""


class Verification(Part, frozen=True):
    """What was checked, and what came of it."""

    status: str
    """``verified``, or ``unverified`` when nobody asked for it or it could not be done."""
    reason: str = ""
    """Why it is not verified, or what was checked instead."""
    guilty: list[str] = []
    """Rules and passes at fault."""
    probes: list[dict[str, Any]] = []
    """Each comparison: inputs, sizes, the differences of every output."""
    refused: dict[str, str] = {}
    """Inputs that the original does not run on, and why."""
    regions: dict[str, Any] = {}
    """Rewrites checked one by one."""
    seed: int = 0
    """Seed of the generated inputs."""
    stochastic: bool = False
    """Whether outputs depend on random numbers."""
    tolerance: dict[str, Any] = {}
    """Bounds by element type."""
    versions: dict[str, str] = {}
    """Versions of what ran."""
    hashes: dict[str, str] = {}
    """SHA-256 of the models that were compared, where they are files."""
    notes: list[str] = []
    """What a reader should know besides."""


class FileFacts(Part, frozen=True):
    """A file that was written."""

    bytes: int
    """Its size."""
    sha256: str = ""
    """Digest of all of it."""
    sampled_sha256: str = ""
    """Digest of samples, for large files."""


class Metadata(Part, frozen=True):
    """The metadata of one optimization."""

    format: Literal[1]
    """Version of this form."""
    status: Literal["verified", "unverified", "unchanged"]
    """What came out: a verified result, one that was not checked, or the original."""
    why: str
    """Why the original was handed on; empty otherwise."""
    source: Source
    """The model that was optimized."""
    target: TargetFacts
    """What it was optimized for."""
    settings: Settings
    """How to run it."""
    decisions: Decisions
    """What was done and what was not."""
    before: Counts
    """The model as it was."""
    after: Counts
    """The model as it is."""
    verification: Verification
    """What was checked."""
    placement: dict[str, Any] | None
    """Which provider runs which nodes, as far as that is known."""
    timings: dict[str, Any] | None
    """What was measured when tuning; ``null`` when nothing was."""
    versions: dict[str, str]
    """Versions of ampc and of what it stands on."""
    files: dict[str, FileFacts]
    """What was written, by name; empty when nothing was."""
    notes: list[str]
    """What a reader should know besides."""


# Making it ---------------------------------------------------------------------------------------


def metadata_of(result: Result, *, source: str, target: Target, config: Mapping[str, Any] | None = None) -> Metadata:
    """Return the metadata of a result; ``source`` names the model, ``config`` is what the caller overrode."""
    report = json.loads(bundle.to_json(result.report))  # plain values, whatever the report is made of
    verification = _verification(report["verification"])
    record = {
        "format": FORMAT,
        "status": report["status"],
        "why": report.get("why", ""),
        "source": {"name": source, "sha256": verification.get("hashes", {}).get("original", "")},
        "target": _target(target, config or {}),
        "settings": result.settings,
        "decisions": _decisions(report),
        "before": _counts(report, "before"),
        "after": _counts(report, "after"),
        "verification": verification,
        "placement": report.get("placement"),
        "timings": report.get("tuning"),
        "versions": report["versions"],
        "files": _files(result.path),
        "notes": report["notes"],
    }
    return msgspec.convert(record, Metadata)


def _target(target: Target, config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": target.name,
        "summary": target.summary,
        "isa": list(target.machine.isa),
        "cores": target.machine.cores,
        "providers": [name for name, _ in target.runtime.providers],
        "detected": target.detected,
        "config": dict(config),
    }


def _decisions(report: Mapping[str, Any]) -> dict[str, Any]:
    from compiler import manager

    known = manager.known_rules()
    stages = {name: known[name].stage if name in known else "" for name in report.get("rules", {})}
    assert set(stages.values()) <= {*STAGES, ""}
    return {
        "pipeline": report.get("pipeline", ""),
        "select": report.get("select", ""),
        "disabled": report.get("disabled", []),
        "rolled_back": report["rolled_back"],
        "choices": report.get("decisions", []),
        "rules": {name: {"stage": stages[name], **facts} for name, facts in report.get("rules", {}).items()},
        "passes": report["passes"],
    }


def _counts(report: Mapping[str, Any], when: str) -> dict[str, Any]:
    census = report.get(f"census_{when}", {})
    return {
        "nodes": report[f"nodes_{when}"],
        "bytes": report[f"bytes_{when}"],
        "opset": report.get("opset", {}).get(when, 0),
        "operators": census,
        "types": {kind.value: count for kind, count in counts_by_type(census).items()},
    }


def _verification(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a certificate, or what stands for one, with one name for the reason."""
    return {"reason": record.get("why", ""), **{key: value for key, value in record.items() if key != "why"}}


def _files(path: Path | None) -> dict[str, Any]:
    """Return what lies at an output, as its manifest tells."""
    if path is None:
        return {}
    manifest = bundle.sidecar(path) if bundle.is_plain(path) else path / "ampc.json"
    try:
        return dict(json.loads(manifest.read_bytes())["files"])
    except (OSError, ValueError, KeyError) as error:
        raise InputError("the result is gone", where=str(manifest), why=str(error), hint="optimize again") from error


def to_bytes(found: Metadata) -> bytes:
    """Return metadata as a JSON text with sorted keys: equal metadata, equal bytes."""
    return bundle.to_json(msgspec.to_builtins(found))


# Reading it --------------------------------------------------------------------------------------


def read_metadata(path: str | Path) -> Metadata:
    """Read metadata and check its form; raises ``InputError`` that names the place of a mistake."""
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Metadata)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError("the metadata cannot be read", where=str(path), why=str(error)) from error


# The published schema ----------------------------------------------------------------------------


def published_schema() -> dict[str, Any]:
    """Return the JSON schema as it is published."""
    found: dict[str, Any] = json.loads(resources.files("compiler").joinpath(SCHEMA).read_bytes())
    return found


def made_schema() -> bytes:
    """Return the JSON schema that the classes give, docstrings of fields included, as the text to publish."""
    schema = msgspec.json.schema(Metadata)
    for name, part in schema["$defs"].items():
        docs = _field_docs(globals()[name])
        for key, field in part["properties"].items():
            field["description"] = docs[key]
        part["description"] = inspect.getdoc(globals()[name])
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Metadata of an optimization by ampc"}
    return json.dumps({**head, **schema}, indent=1, ensure_ascii=False).encode() + b"\n"


def _field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a class, on one line."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            found[ast.unparse(field.target)] = " ".join(str(text.value.value).split()).replace("``", "`")
    return found
