"""Know which operators an execution provider has kernels for, at which versions and for which types.

For providers of the installed ONNX Runtime the answer is read from its own kernel registry, so it cannot be out of
date. Importing ONNX Runtime for that takes a fifth of a second, so the table is kept on disk for each build. Builds
with a provider that compiles (OpenVINO, CoreML) crash when they are asked, so a child process asks, and those builds
have the data of the release that was read last, also for the CPU provider. For the others it comes from data beside
this module, one file for each provider, which ``generate`` makes. Providers that compile register no kernels: their
files list the operators that their converters take, at any version, and say types of the first operand only (the
constraint ``*``). What they want besides is in ``demands.toml``.

A kernel matches a node by the version in which the node's operator was last changed (its *since-version*, not
the model's opset): one registered with an upper bound matches every since-version within its range, but one
registered without matches only the very version it starts at. An operator re-released by a later opset thus
has no kernel until its provider registers one again, and an operator that is a function in the ONNX schemas
is then expanded instead.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path

import msgspec

from targets.disk_cache import default_folder, remembered
from targets.errors import TargetError
from targets.installed import installed
from targets.names import check_provider
from targets.plugins import installed_plugins

_OPEN = 2**31 - 1
"""How ONNX Runtime writes the end of a range that has none."""
_FORMAT = 2
"""Version of the stored form; a change makes old cache files unused."""
ANY_VERSION = 10_000
"""The last version of an operator that a provider takes at any version."""
FIRST_OPERAND = "*"
"""The constraint that holds for the type of a node's first operand, whatever its name."""
_SECONDS = 120.0
"""How long reading the registry may take; a fifth of a second is usual."""
_CHILD = """
import os, msgspec
answers = os.dup(1)
os.dup2(2, 1)
from targets.kernels import read_registry
with open(answers, "wb") as out:
    out.write(msgspec.json.encode(read_registry()))
"""
"""What the child runs; whatever a library prints is no answer."""
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
        if self.last == ANY_VERSION:
            return "any" if self.first == 1 else f"{self.first} and later"
        return str(self.first) if self.last in (None, self.first) else f"{self.first}-{self.last}"

    def refused(self, types: Mapping[str, str]) -> list[str]:
        """Return the constraints that ``types`` violates; those that it does not mention are met.

        The constraint ``*`` holds for the first of ``types``.
        """
        return [name for name, accepted in self.types.items() if _type_of(name, types) not in (None, *accepted)]


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

    A provider of the installed ONNX Runtime is read live, any other from the data shipped beside this
    module. ``cache`` is the folder for what was read, by default the user's. Raises ``TargetError``
    when ONNX Runtime has no such provider, is not installed, or the provider's data are not shipped.
    """
    check_provider(provider)
    live, _ = _live(default_folder() if cache is None else cache)
    if provider in live:
        return live[provider]
    shipped = _shipped(provider)
    if shipped is not None:
        return shipped
    why = f"the installed ONNX Runtime has no {provider}, and nothing is known of what it runs"
    raise TargetError(why, file=provider, hint=f"kernels can be read for {', '.join(sorted(live))}")


def installed_providers(*, cache: Path | None = None) -> tuple[str, ...]:
    """Return the execution providers of the installed ONNX Runtime, in its order of priority, after its plugins."""
    _, providers = _live(default_folder() if cache is None else cache)
    return (*(name for name in installed_plugins() if name not in providers), *providers)


@lru_cache(maxsize=32)
def _shipped(provider: str) -> KernelTable | None:
    """Return the table of a provider that is shipped as data, ``None`` when there is none."""
    data = resources.files(__package__) / f"{provider}.json"
    if not data.is_file():
        return None
    return msgspec.json.decode(data.read_bytes(), type=Stored).tables()[provider]


class Stored(msgspec.Struct, frozen=True):
    """Be the stored form of kernel tables: equal lists of types are written once."""

    source: str
    """Where the kernels were read from: the name, version and git revision of a runtime."""
    types: list[tuple[str, ...]]
    """Every list of accepted types."""
    kernels: list[tuple[str, str, str, int, int | None, dict[str, int]]]
    """Provider, domain, operator, first and last version, and constraints as positions in ``types``."""
    providers: tuple[str, ...] = ()
    """The providers of the runtime that was read; empty in shipped data."""

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


def _live(folder: Path) -> tuple[dict[str, KernelTable], tuple[str, ...]]:
    """Return the tables of the installed ONNX Runtime's providers that have one, and all of its providers."""
    current = installed()
    return _tables(f"kernels-{_FORMAT}-{current.version}-{current.build}", folder)


@lru_cache(maxsize=4)
def _tables(key: str, folder: Path) -> tuple[dict[str, KernelTable], tuple[str, ...]]:
    """Return the tables and providers stored under ``key``, reading the registry when there are none."""
    stored = remembered(Stored, _asked, key=key, folder=folder)
    return stored.tables(), stored.providers


def _asked() -> Stored:
    """Read the registry in a child process; where that ends it, there are no kernels but what is shipped."""
    places = os.pathsep.join(place for place in sys.path if place)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD],
            capture_output=True,
            timeout=_SECONDS,
            check=True,
            env=os.environ | {"PYTHONPATH": places},
        )
        return msgspec.json.decode(done.stdout, type=Stored)
    except subprocess.CalledProcessError:
        from onnxruntime.capi import _pybind_state

        source = f"onnxruntime {_pybind_state.get_version_string()}, which cannot tell its kernels"
        return Stored(source, [], [], tuple(_pybind_state.get_available_providers()))
    except (subprocess.TimeoutExpired, OSError, msgspec.DecodeError) as error:
        why = f"the kernels of ONNX Runtime could not be read ({error})"
        raise TargetError(why, hint="see whether `python -c 'import onnxruntime'` works") from error


def read_registry() -> Stored:
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
    source = f"onnxruntime {version} ({build})"
    return Stored(source, list(types), rows, tuple(_pybind_state.get_available_providers()))


def _canonical(domain: str) -> str:
    """Give the standard domain its one name."""
    return "" if domain == "ai.onnx" else domain


def _type_of(constraint: str, types: Mapping[str, str]) -> str | None:
    """Return the type that a constraint is about, ``None`` when ``types`` does not mention it."""
    return next(iter(types.values()), None) if constraint == FIRST_OPERAND else types.get(constraint)


def _refusal(matching: Sequence[Kernel], types: Mapping[str, str]) -> str:
    """Say which types no kernel takes, by the kernel that comes closest."""
    closest = min(matching, key=lambda kernel: len(kernel.refused(types)))
    return " and ".join(
        f"{_named(name)} = {_type_of(name, types)} (only {', '.join(_accepted(matching, name))})"
        for name in closest.refused(types)
    )


def _accepted(matching: Sequence[Kernel], name: str) -> Iterator[str]:
    """List what any of the kernels accepts under a constraint, each type once."""
    yield from dict.fromkeys(kind for kernel in matching for kind in kernel.types.get(name, ()))


def _named(constraint: str) -> str:
    """Name a constraint for people."""
    return "its first operand" if constraint == FIRST_OPERAND else constraint
