"""Make the data files of this package: ``python -m targets.kernels.generate FACTS.json``, or ``--installed``.

``FACTS.json`` says for each execution provider which operators it runs, as its sources and documentation do::

    {"PROVIDER": {"OP" or "DOMAIN:OP": {"domains": ["ai.onnx"], "versions": ["1-10", "11+"],
                                        "dtypes": {"T": ["float", "float16"]}}}}

``--installed PROVIDER`` reads the registry of the installed ONNX Runtime instead, which is how the table of the CPU
provider, or of another one that registers kernels, is brought up to date or compared between releases.

Decisions. Providers that compile state no versions: their operators match all. What they state of types holds for
the first operand (``*``) and not for operators whose first operand is a condition, or that only move data. Types that
depend on an option of the provider, and types that are no tensors, are left out.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from targets.kernels import ANY_VERSION, FIRST_OPERAND, Stored, read_registry

FOLDER = Path(__file__).parent

_VARIANTS = {"CoreMLExecutionProvider(MLProgram)": "CoreMLExecutionProvider"}
"""Entries that stand for the way in which our targets use a provider."""
_ALSO = {"NvTensorRTRTXExecutionProvider": "TensorrtExecutionProvider"}
"""Providers that run what another one does, since they share its converter."""
_LIVE = "CPUExecutionProvider"
"""The provider that every runtime has; its data file is read from a runtime, for builds that cannot tell."""

_MORE = {
    "QNNExecutionProvider": ("GroupNormalization", "IsNaN", "RoiAlign", "SimplifiedLayerNormalization", "Tan", "Xor")
}
"""Operators that a provider's own package takes beyond its sources in ONNX Runtime."""
_SEVERAL_OPS = {"Clip/Relu": ("Clip", "Relu")}
"""Entries that stand for several operators."""
_MICROSOFT = frozenset(
    {"Attention", "BiasGelu", "DynamicQuantizeMatMul", "EmbedLayerNormalization", "FusedConv", "FusedGemm"}
    | {"FusedMatMul", "GroupQueryAttention", "MatMulNBits", "QuickGelu", "SkipLayerNormalization"}
    | {"SkipSimplifiedLayerNormalization"}
)
"""Operators of ``com.microsoft`` in lists that do not tell domains apart."""

_CONDITIONS = ("And", "Not", "Or", "Where", "Xor")
"""Operators whose first operand is a condition."""
_MOVES = ("Cast", "CastLike", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Shape", "Size", "Squeeze")
"""Operators that take every type wherever they are taken, as far as is known."""
_MOVES_TRUTH = {"QNNExecutionProvider": ("Concat", "Slice", "Tile", "Transpose")}
"""More operators that a provider was seen to run on truth values too."""
_ANY_TYPE = frozenset({*_MOVES, "Unsqueeze", "If", "Loop", "Scan", "NonZero", "Range", "ConstantOfShape", "Constant"})

_TYPES = {
    "fp32": "float",
    "fp16": "float16",
    "bf16": "bfloat16",
    "mlfloat16": "float16",
    "inf64": "int64",
    **{f"int{bits}_t": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}_t": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
"""Other spellings of element types."""
_KNOWN = frozenset(
    {"bfloat16", "bool", "double", "float", "float16", "int4", "int8", "int16", "int32", "int64", "string"}
    | {"uint4", "uint8", "uint16", "uint32", "uint64", "float8e4m3fn", "float8e5m2", "float4e2m1"}
)
_RENAMED = {"Dropout": 12, "QuantizeLinear": 23}
"""Operators whose type variables got other meanings in this version: types are stated by the newest names only, and
older kernels take what they take."""
_GENERAL = ("default", "HTP", "QNN CPU", "QNN GPU")
"""Constraints that are a provider's, and no type variables of an operator."""
_SEVERAL = re.compile(r"int8/16/32/64")


def main(arguments: list[str] | None = None) -> None:
    """Write the files that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m targets.kernels.generate", description=__doc__)
    parser.add_argument("facts", nargs="?", type=Path, help="the JSON file of facts")
    parser.add_argument("--installed", metavar="PROVIDER", help="read a provider of the installed ONNX Runtime")
    parser.add_argument("--into", type=Path, default=FOLDER, help="the folder to write to")
    asked = parser.parse_args(arguments)
    if asked.installed:
        write(asked.into, asked.installed, of_installed(asked.installed))
    if asked.facts:
        for provider, stored in of_facts(json.loads(asked.facts.read_text(encoding="utf-8"))).items():
            write(asked.into, provider, stored)


def write(folder: Path, provider: str, stored: Stored) -> None:
    """Write one file, a kernel a line, so that differences can be read."""
    rows = ",\n".join(msgspec.json.encode(row).decode() for row in stored.kernels)
    types = ",\n".join(msgspec.json.encode(kinds).decode() for kinds in stored.types)
    text = f'{{"source": {json.dumps(stored.source)},\n"types": [\n{types}],\n"kernels": [\n{rows}]}}\n'
    (folder / f"{provider}.json").write_text(text, encoding="utf-8")


def of_installed(provider: str) -> Stored:
    """Return the kernels that the installed ONNX Runtime has registered for a provider."""
    stored = read_registry()
    return msgspec.structs.replace(stored, kernels=[row for row in stored.kernels if row[0] == provider], providers=())


def of_facts(facts: Mapping[str, Any]) -> dict[str, Stored]:
    """Return the tables of all providers that have operators in the facts, but of the one that is always live."""
    source = str(facts.get("_meta", {}).get("source", "facts")).partition(" ")[0]
    found: dict[str, Stored] = {}
    for entry, operators in facts.items():
        provider = _VARIANTS.get(entry, entry)
        if provider.startswith("_") or provider == _LIVE or "(" in provider:
            continue
        table = _Table(provider)
        for entry_name, said in operators.items():
            for name in _SEVERAL_OPS.get(entry_name, (entry_name,)):
                table.add(name, said)
        for op in _MORE.get(provider, ()):
            table.add(op, {"domains": ["ai.onnx"], "dtypes": operators["Relu"]["dtypes"]})
        if table.rows:
            found[provider] = table.stored(source)
    for provider, other in _ALSO.items():
        rows = [(provider, *row[1:]) for row in found[other].kernels]
        found[provider] = msgspec.structs.replace(found[other], kernels=rows)
    return found


class _Table:
    """The kernels of one provider, while they are read."""

    def __init__(self, provider: str) -> None:
        """Start empty."""
        self.provider = provider
        self.types: dict[tuple[str, ...], int] = {}
        self.rows: list[tuple[str, str, str, int, int | None, dict[str, int]]] = []

    def add(self, name: str, said: Mapping[str, Any]) -> None:
        """Add an operator at all of its versions; internal domains and entries about no operator are left out."""
        domain, _, op = name.rpartition(":")
        domain = domain or self._domain(op, said.get("domains", ()))
        if name.startswith("_") or not op.isidentifier():
            return
        if domain not in ("", "ai.onnx.ml", "com.microsoft"):
            return
        constraints = {
            constraint: self.types.setdefault(kinds, len(self.types))
            for constraint, kinds in sorted(self._constraints(op, said).items())
            if kinds
        }
        for first, last in _ranges(said.get("versions", ())):
            older = not domain and last is not None and last < _RENAMED.get(op, 0)
            known = {} if older else constraints
            self.rows.append((self.provider, domain, op, first, last, known))

    def _domain(self, op: str, domains: Iterable[str]) -> str:
        stated = list(domains)
        if stated == ["com.microsoft"] or (stated == ["ai.onnx/com.microsoft"] and op in _MICROSOFT):
            return "com.microsoft"
        return ""

    def _constraints(self, op: str, said: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
        """Return the tensor types by constraint."""
        stated = said.get("dtypes") or {}
        if said.get("versions") and not any(name in _GENERAL for name in stated):
            return {name: _tensor_types(kinds) for name, kinds in stated.items()}
        if self.provider in ("TensorrtExecutionProvider", "CANNExecutionProvider"):
            return {name: _tensor_types(kinds) for name, kinds in stated.items()}  # stated for each operator
        if op in _ANY_TYPE or not stated:
            return {}
        if op in _CONDITIONS:
            return {FIRST_OPERAND: ("tensor(bool)",)}
        found = _tensor_types(kind for kinds in stated.values() for kind in kinds)
        truth = ("tensor(bool)",) if op in _MOVES_TRUTH.get(self.provider, ()) else ()
        return {FIRST_OPERAND: tuple(sorted({*found, *truth}))}

    def stored(self, source: str) -> Stored:
        """Return the table in its stored form."""
        return Stored(source, list(self.types), sorted(self.rows, key=lambda row: (row[1:4], row[4] or 0)))


def _ranges(versions: Iterable[str]) -> Iterator[tuple[int, int | None]]:
    """Yield first and last version of each kernel; an operator without any has one for all versions."""
    stated = [part.strip() for text in versions for part in text.split(",")]
    if not stated or stated == ["any"]:
        yield 1, ANY_VERSION
        return
    for text in stated:
        first, dash, last = text.removesuffix("+").partition("-")
        yield int(first), int(last) if dash else None


def _tensor_types(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return ONNX Runtime's names of the types that are tensors, sorted; what needs an option is left out."""
    found: set[str] = set()
    for text in kinds:
        head = _SEVERAL.sub("int8/int16/int32/int64", text)
        if "via options" in head or "_enable)" in head or "(" in head.split(" ")[0]:
            continue
        for word in head.split(" ")[0].split("/"):
            name = _TYPES.get(word.lower(), word.lower())
            if name in _KNOWN:
                found.add(f"tensor({name})")
    return tuple(sorted(found))


if __name__ == "__main__":
    main()
