"""Know the operators that ONNX Runtime adds to the standard: their operands, results and element types.

Kernels are registered by type variables of the operators' schemas, and the schemas of operators beyond the standard
are known to ONNX Runtime only. They are read once for each build and kept on disk, like the kernels themselves.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import msgspec

from targets.disk_cache import default_folder, remembered
from targets.installed import installed

_FORMAT = 1
"""Version of the stored form; a change makes old cache files unused."""


class Operator(msgspec.Struct, frozen=True):
    """Describe the newest version of one operator."""

    domain: str
    """The operator's domain; ``""`` is ``ai.onnx``."""
    op: str
    """The operator."""
    inputs: tuple[tuple[str, str], ...]
    """Name and type of each formal input: a type variable, or a type such as ``tensor(int64)``."""
    outputs: tuple[tuple[str, str], ...]
    """Name and type of each formal output."""
    types: dict[str, tuple[str, ...]]
    """Accepted types by type variable."""
    variadic: bool = False
    """Whether the last input stands for any number of operands."""


def operators(*, cache: Path | None = None) -> dict[tuple[str, str], Operator]:
    """Return domain and name → operator, for the operators that the installed ONNX Runtime adds to the standard.

    Operators of the default domain that the standard defines too are among them. ``cache`` is the folder for what was
    read, by default the user's. Raises ``TargetError`` when ONNX Runtime is not installed.
    """
    current = installed()
    key = f"operators-{_FORMAT}-{current.version}-{current.build}"
    return _operators(key, default_folder() if cache is None else cache)


@lru_cache(maxsize=4)
def _operators(key: str, folder: Path) -> dict[tuple[str, str], Operator]:
    """Return the operators stored under ``key``, reading the schemas when there are none."""
    stored = remembered(tuple[Operator, ...], _read_schemas, key=key, folder=folder)
    return {(operator.domain, operator.op): operator for operator in stored}


def _read_schemas() -> tuple[Operator, ...]:
    """Import ONNX Runtime and copy the newest schema of each operator."""
    from onnxruntime.capi import _pybind_state  # heavy, and not needed when the cache is warm

    newest = {}
    for schema in sorted(_pybind_state.get_all_operator_schema(), key=lambda s: s.since_version):
        newest[schema.domain, schema.name] = schema
    return tuple(
        Operator(
            domain,
            name,
            tuple((formal.name, formal.typeStr) for formal in schema.inputs),
            tuple((formal.name, formal.typeStr) for formal in schema.outputs),
            {c.type_param_str: tuple(sorted(c.allowed_type_strs)) for c in schema.type_constraints},
            bool(schema.inputs) and int(schema.inputs[-1].option) == _VARIADIC,
        )
        for (domain, name), schema in sorted(newest.items())
        if domain != "ai.onnx.ml"
    )


_VARIADIC = 2
"""How ONNX Runtime numbers the option of a formal that stands for any number of operands."""
