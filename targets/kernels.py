"""Know which operators an execution provider has kernels for, at which versions and for which types.

For providers of the installed ONNX Runtime the answer is read from its own kernel registry, so it cannot be
out of date. Importing ONNX Runtime for that takes a fifth of a second, so the table is kept on disk for each
build.

A kernel matches a node by the version in which the node's operator was last changed (its *since-version*, not
the model's opset): one registered with an upper bound matches every since-version within its range, but one
registered without matches only the very version it starts at. An operator re-released by a later opset thus
has no kernel until its provider registers one again, and an operator that is a function in the ONNX schemas
is then expanded instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import msgspec

from targets.disk_cache import default_folder, remembered
from targets.errors import TargetError
from targets.installed import installed
from targets.names import check_provider

_OPEN = 2**31 - 1
"""How ONNX Runtime writes the end of a range that has none."""
_FORMAT = 1
"""Version of the stored form; a change makes old cache files unused."""
_HALF, _FLOAT = "tensor(float16)", "tensor(float)"


class Kernel(msgspec.Struct, frozen=True):
    """Describe one registered kernel."""

    domain: str
    """The operator's domain; ``""`` is ``ai.onnx``."""
    op: str
    """The operator."""
    first: int
    """Lowest since-version that it matches."""
    last: int | None
    """Highest since-version that it matches; ``None`` when registered without an upper bound."""
    types: dict[str, tuple[str, ...]]
    """Accepted types by constraint: a type variable of the schema, or the name of an input or output."""

    def matches(self, since_version: int) -> bool:
        """Whether a node whose operator was last changed in ``since_version`` can run on it."""
        return self.first == since_version if self.last is None else self.first <= since_version <= self.last

    @property
    def versions(self) -> str:
        """The range as text: ``11-21``, or ``22`` for a kernel without an upper bound."""
        return str(self.first) if self.last in (None, self.first) else f"{self.first}-{self.last}"

    def refused(self, types: Mapping[str, str]) -> list[str]:
        """Return the constraints that ``types`` violates; those that it does not mention are met."""
        return [
            name for name, accepted in self.types.items() if name in types and types[name] not in accepted
        ]


class Support(msgspec.Struct, frozen=True):
    """Answer whether a node has a kernel: true or false in a condition, and the reason when false."""

    kernel: Kernel | None = None
    """The kernel that runs it."""
    reason: str = ""
    """Why there is none; empty when there is one."""

    def __bool__(self) -> bool:
        """Whether there is a kernel."""
        return self.kernel is not None


class KernelTable:
    """Hold the kernels of one execution provider."""

    def __init__(self, provider: str, kernels: tuple[Kernel, ...], *, source: str) -> None:
        """Index the kernels; ``source`` says where they were read from."""
        self.provider, self.kernels, self.source = provider, kernels, source

    @cached_property
    def _by_op(self) -> dict[tuple[str, str], tuple[Kernel, ...]]:
        """The kernels of each operator, in the registry's order."""
        found: dict[tuple[str, str], list[Kernel]] = {}
        for kernel in self.kernels:
            found.setdefault((kernel.domain, kernel.op), []).append(kernel)
        return {key: tuple(kernels) for key, kernels in found.items()}

    def all_ops(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(domain, op)`` that has a kernel at some version, sorted."""
        return tuple(sorted(self._by_op))

    def find(self, domain: str, op: str, since_version: int) -> tuple[Kernel, ...]:
        """Return the kernels that match the operator at this since-version, whatever the types."""
        return tuple(kernel for kernel in self._of(domain, op) if kernel.matches(since_version))

    def has_kernel(self, domain: str, op: str, since_version: int | None = None) -> bool:
        """Whether the operator has a kernel at this since-version, or at any.

        An operator without one may still run: ONNX Runtime expands those that the ONNX schemas define as
        functions.
        """
        return bool(self._of(domain, op) if since_version is None else self.find(domain, op, since_version))

    def supports(self, domain: str, op: str, since_version: int, types: Mapping[str, str]) -> Support:
        """Say whether a node has a kernel, or why not.

        ``types`` gives ONNX Runtime's name of a type (``tensor(float)``) for the schema's type variables and,
        since some kernels constrain those instead, for the names of the schema's inputs and outputs. Inputs
        that the node leaves out are left out here.
        """
        for kernel in self.find(domain, op, since_version):
            if not kernel.refused(types):
                return Support(kernel)
        return Support(reason=self._reason(domain, op, since_version, types))

    def _reason(self, domain: str, op: str, since_version: int, types: Mapping[str, str]) -> str:
        """Say why no kernel runs a node."""
        why = f"{self.provider} has no kernel of {domain}::{op}" if _canonical(domain) else ""
        why = why or f"{self.provider} has no kernel of {op}"
        if matching := self.find(domain, op, since_version):
            return f"{why} at version {since_version} for {_refusal(matching, types)}"
        versions = ", ".join(dict.fromkeys(kernel.versions for kernel in self._of(domain, op)))
        return f"{why} at version {since_version}, only at {versions}" if versions else why

    def supports_through_float(
        self, domain: str, op: str, since_version: int, types: Mapping[str, str]
    ) -> Support:
        """Say whether a half-precision node without a kernel runs in single precision between casts.

        ONNX Runtime inserts those casts for the CPU only, so the answer elsewhere is that of ``supports``.
        """
        if self.provider != "CPUExecutionProvider":
            return self.supports(domain, op, since_version, types)
        wider = {name: _FLOAT if kind == _HALF else kind for name, kind in types.items()}
        return self.supports(domain, op, since_version, wider)

    def _of(self, domain: str, op: str) -> tuple[Kernel, ...]:
        """Return all kernels of an operator."""
        return self._by_op.get((_canonical(domain), op), ())


def kernels(provider: str = "CPUExecutionProvider", *, cache: Path | None = None) -> KernelTable:
    """Return the kernels of an execution provider.

    A provider of the installed ONNX Runtime is read live, any other from the data shipped in
    ``kernels_data``. ``cache`` is the folder for what was read, by default the user's. Raises ``TargetError``
    when ONNX Runtime has no such provider, is not installed, or the provider's data are not shipped.
    """
    check_provider(provider)
    data = resources.files(__package__) / "kernels_data" / f"{provider}.json"
    tables = _live(default_folder() if cache is None else cache)
    if provider in tables:
        return tables[provider]
    if data.is_file():
        stored = msgspec.json.decode(data.read_bytes(), type=_Stored)
        return stored.tables()[provider]
    why = f"the installed ONNX Runtime has no {provider}, and there is no data file for its kernels yet"
    raise TargetError(why, file=provider, hint=f"kernels can be read for {', '.join(sorted(tables))}")


class _Stored(msgspec.Struct, frozen=True):
    """Be the stored form of kernel tables: equal lists of types are written once."""

    source: str
    """Where the kernels were read from: the name, version and git revision of a runtime."""
    types: list[tuple[str, ...]]
    """Every list of accepted types."""
    kernels: list[tuple[str, str, str, int, int | None, dict[str, int]]]
    """Provider, domain, operator, first and last version, and constraints as positions in ``types``."""

    def __post_init__(self) -> None:
        """Refuse positions that do not exist, so that a damaged file counts as one that does not decode."""
        if any(not 0 <= at < len(self.types) for row in self.kernels for at in row[-1].values()):
            raise ValueError("a kernel refers to a list of types that is not there")

    def tables(self) -> dict[str, KernelTable]:
        """Return the table of every provider."""
        found: dict[str, list[Kernel]] = {}
        for provider, domain, op, first, last, types in self.kernels:
            accepted = {name: self.types[at] for name, at in types.items()}
            found.setdefault(provider, []).append(Kernel(domain, op, first, last, accepted))
        return {name: KernelTable(name, tuple(rows), source=self.source) for name, rows in found.items()}


def _live(folder: Path) -> dict[str, KernelTable]:
    """Return the tables of the installed ONNX Runtime's providers."""
    current = installed()
    return _tables(f"kernels-{_FORMAT}-{current.version}-{current.build}", folder)


@lru_cache(maxsize=4)
def _tables(key: str, folder: Path) -> dict[str, KernelTable]:
    """Return the tables stored under ``key``, reading the registry when there are none."""
    return remembered(_Stored, _read_registry, key=key, folder=folder).tables()


def _read_registry() -> _Stored:
    """Import ONNX Runtime and copy its kernel registry."""
    from onnxruntime.capi import _pybind_state  # heavy, and not needed when the cache is warm

    types: dict[tuple[str, ...], int] = {}
    rows = []
    for entry in _pybind_state.get_all_opkernel_def():
        first, last = entry.version_range
        accepted = {
            name: types.setdefault(tuple(kinds), len(types))
            for name, kinds in sorted(entry.type_constraints.items())
        }
        end = None if last == _OPEN else last
        rows.append((entry.provider, _canonical(entry.domain), entry.op_name, first, end, accepted))
    version, build = _pybind_state.get_version_string(), _pybind_state.get_build_info()
    return _Stored(f"onnxruntime {version} ({build})", list(types), rows)


def _canonical(domain: str) -> str:
    """Give the standard domain its one name."""
    return "" if domain == "ai.onnx" else domain


def _refusal(matching: Sequence[Kernel], types: Mapping[str, str]) -> str:
    """Say which types no kernel takes, by the kernel that comes closest."""
    closest = min(matching, key=lambda kernel: len(kernel.refused(types)))
    return " and ".join(
        f"{name} = {types[name]} (only {', '.join(_accepted(matching, name))})"
        for name in closest.refused(types)
    )


def _accepted(matching: Sequence[Kernel], name: str) -> Iterator[str]:
    """List what any of the kernels accepts under a constraint, each type once."""
    yield from dict.fromkeys(kind for kernel in matching for kind in kernel.types.get(name, ()))
