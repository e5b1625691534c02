"""Probes: inputs on which two models are compared.

``ProbePlan`` looks at a model once, before any pass runs, and lists candidates: several bindings of the
dynamic dims, several manners of drawing.  ``settle`` runs them on the original until enough have succeeded,
since only a run tells which sizes and integers a model takes.  Values are drawn when they are asked for, and
equal seeds give equal values.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from compiler.errors import InputError, WorkerError, nearest
from compiler.ir.dims import Dim, Expr
from compiler.ir.dtype import DType
from compiler.ir.graph import Model, Value
from compiler.ir.types import TensorType, Type, UnrankedType
from compiler.verify.effort import Effort
from compiler.verify.probes_bindings import bindings, size_of, symbols_of, telling_names
from compiler.verify.probes_draw import CannotDraw, Slot, draw
from compiler.verify.probes_roles import role_of

_EXTRA = 5
"""Candidates tried for a second binding when there are enough probes already."""


SLOW = 0.1
"""Estimated seconds of a run above which fewer probes are run."""
_VERY_SLOW = 3.0
"""Estimated seconds of a run above which one probe must do."""


@dataclass(slots=True)
class Probe:
    """Inputs for one run: ``kind`` is ``user`` or the manner of drawing, ``binding`` the sizes of the symbols."""

    name: str
    kind: str
    binding: Mapping[str, int]
    slots: Sequence[Slot] = ()
    seed: int = 0
    given: Mapping[str, Any] = field(default_factory=dict)
    override: bool = False
    _feeds: dict[str, Any] | None = None

    @property
    def feeds(self) -> Mapping[str, Any]:
        """The values by input; raises ``CannotDraw`` when an input has no value that can be made."""
        if self._feeds is None:
            drawn = {s.name: draw(s, self.binding, self.kind, self.seed) for s in self.slots if s.default is None}
            if self.override:
                drawn.update((s.name, _moved(s, self.seed)) for s in self.slots if s.default is not None)
            self._feeds = {**drawn, **self.given}
        return self._feeds



def _moved(slot: Slot, seed: int) -> Any:
    """Return other contents for an initializer that callers may override; only floats are moved."""
    assert slot.default is not None
    array = slot.default.array()
    if slot.default.dtype not in (DType.F32, DType.F64, DType.F16):
        return array
    noise = np.random.default_rng(seed).uniform(0.9, 1.1, size=array.shape)
    return (array * noise).astype(array.dtype)


class ProbePlan:
    """What probes need to know of a model, found before passes change it."""

    def __init__(self, model: Model) -> None:
        """Look at the inputs of a model that was loaded (and, better, inferred)."""
        self.slots = [
            Slot(v.name, _declared(v), role_of(v), v.default if v.default is None or v.default.is_readable else None)
            for v in model.graph.inputs
        ]
        shapes = [s.type.shape for s in self.slots if isinstance(s.type, TensorType)]
        self.symbols = symbols_of(shapes)
        if any(isinstance(s.type, UnrankedType) for s in self.slots):
            self.symbols.append("")
        self.effort = Effort(model)
        self._first = {_name(s.type.shape[0]) for s in self.slots if isinstance(s.type, TensorType) and s.type.shape}
        self.has_floats = any(getattr(s.type, "dtype", None) in _FLOATS for s in self.slots)

    def elements(self, binding: Mapping[str, int]) -> int:
        """Return the number of elements that all inputs together have at a binding."""
        shapes = [s.type.shape for s in self.slots if isinstance(s.type, TensorType) and s.default is None]
        return sum(math.prod(size_of(d, binding) for d in shape) for shape in shapes)

    def candidates(self, *, seed: int = 0, user: Mapping[str, Any] | None = None) -> list[Probe]:
        """Return probes in the order in which they should be tried; those of the user come first.

        Raises ``InputError`` when the user's inputs are not those of the model.
        """
        found = [self._user(user)] if user is not None else []
        known = list(self._bindings(found))
        first, other = known[0], known[1 % len(known)]
        if self.effort.seconds(first[1]) > SLOW:  # the first probe serves the checks of rewrites too: let it be small
            first, other = sorted((first, other), key=lambda b: self.effort.seconds(b[1]))
        overridable = any(s.default is not None for s in self.slots)
        plan = [("normal", *first), ("structured", *other), ("edges", *first), ("large", *first)]
        plan += [("normal", *b) for b in known[2:6]]
        plan += [(m, *first) for m in ("ones", "zeros", "small", "mid")]
        plan += [(m, *b) for b in known[2:4] for m in ("ones", "zeros")]
        plan += [("normal", *b) for b in known[6:]]
        for k, (manner, name, binding) in enumerate(plan):
            override = overridable and manner == "structured"
            found.append(self._probe(f"{name}/{manner}", manner, binding, seed + k, override=override))
        return found

    def count(self, probes: Sequence[Probe]) -> int:
        """Return how many probes are worth their time: three, two when a run is slow, one when it takes seconds."""
        seconds = self.effort.seconds(probes[0].binding)
        return 3 if seconds <= SLOW else 2 if seconds <= _VERY_SLOW else 1

    def special(self, like: Probe, *, seed: int = 0) -> Probe | None:
        """Return a probe with NaN and infinities of the sizes of another one; ``None`` when no input is a float."""
        if not self.has_floats:
            return None
        return self._probe(f"{like.name.split('/')[0]}/special", "special", like.binding, seed + 100)

    def _probe(self, name: str, kind: str, binding: Mapping[str, int], seed: int, *, override: bool = False) -> Probe:
        return Probe(name, kind, binding, self.slots, seed, override=override)

    def _bindings(self, user: list[Probe]) -> Iterator[tuple[str, Mapping[str, int]]]:
        if user and user[0].binding:
            yield "user", user[0].binding
        shapes = {s.name: s.type.shape for s in self.slots if isinstance(s.type, TensorType)}
        aliases = {s: s if not s.startswith("?") else f"{s}.{0 if s in self._first else 1}" for s in self.symbols}
        aliases |= {s: name for s, name in telling_names(shapes).items() if s in aliases}
        for name, found in bindings(list(aliases.values())):
            yield name, {s: found[a] for s, a in aliases.items()}

    def _user(self, user: Mapping[str, Any]) -> Probe:
        names = [s.name for s in self.slots]
        for name in user:
            if name not in names:
                raise InputError(f"the model has no input {name!r}", where="inputs", hint=nearest(name, names))
        missing = [s.name for s in self.slots if s.name not in user and s.default is None]
        if missing:
            raise InputError(
                f"the inputs lack {missing[0]!r}", where="inputs", hint=f"the model needs: {', '.join(missing)}"
            )
        given = {s.name: _fitted(s, user[s.name]) for s in self.slots if s.name in user}
        return Probe("user", "user", self._read_binding(given), given=given)

    def _read_binding(self, given: Mapping[str, Any]) -> dict[str, int]:
        found: dict[str, int] = {}
        for slot in self.slots:
            if not isinstance(slot.type, TensorType) or slot.name not in given:
                continue
            for dim, size in zip(slot.type.shape, np.shape(given[slot.name]), strict=False):
                if isinstance(dim, Expr) and dim.is_symbol:
                    found.setdefault(_name(dim), size)
        return found if all(s in found for s in self.symbols) else {}


_FLOATS = frozenset({DType.F16, DType.F32, DType.F64, DType.BF16})


def _name(dim: Dim) -> str:
    return dim.symbols()[0] if isinstance(dim, Expr) else ""


def _fitted(slot: Slot, value: Any) -> Any:
    """Return a user's array in the element type of its input; raises ``InputError`` when that would change it."""
    if not isinstance(slot.type, TensorType | UnrankedType) or slot.type.dtype in (DType.UNKNOWN, DType.STRING):
        return value
    array, wanted = np.asarray(value), slot.type.dtype.numpy
    if array.dtype == wanted:
        return array
    if array.dtype.kind == "V" and array.dtype.itemsize == wanted.itemsize:
        return array.view(wanted)  # a type of ml_dtypes that went through a file
    if array.dtype.kind == wanted.kind or (array.dtype.kind in "iu" and wanted.kind == "f"):
        return array.astype(wanted)
    raise InputError(
        f"the input {slot.name!r} is {array.dtype}, and the model takes {slot.type.dtype}", where="inputs",
        hint=f"convert it: array.astype({wanted.name!r})",
    )  # fmt: skip


def _declared(value: Value) -> Type:
    """Return the type to draw: a declared scalar, which the runtime does not enforce, is a scalar still."""
    proto = value.declared.type.tensor_type if value.declared is not None else None
    if isinstance(value.type, UnrankedType) and proto is not None and proto.HasField("shape"):
        return TensorType(value.dtype, ())
    return value.type


def make_probes(model: Model, *, count: int = 3, seed: int = 0, user: Mapping[str, Any] | None = None) -> list[Probe]:
    """Return candidates for ``settle``, the likeliest to run first; ``count`` is the least number of them."""
    plan = ProbePlan(model)
    found = plan.candidates(seed=seed, user=user)
    while len(found) < count:
        last = found[-1]
        found.append(plan._probe(f"{last.name}+", "normal", last.binding, seed + len(found)))
    return found


# Settling ----------------------------------------------------------------------------------------


class Runs(Protocol):
    """What runs probes: ``verify.reference.Reference``."""

    def run(self, probe: Probe) -> list[Any]:
        """Return the outputs; raises ``WorkerError``."""
        ...


@dataclass(slots=True)
class Settled:
    """The probes that the original runs, and why it refused the others."""

    probes: list[Probe] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    error: WorkerError | None = None


def settle(reference: Runs, candidates: Sequence[Probe], *, count: int = 3, seconds: float = 20.0) -> Settled:
    """Run candidates on the original until ``count`` have succeeded, at two bindings or more if there are.

    Stops after ``seconds``.  A user's probe must run: raises ``InputError`` when the original refuses it.
    """
    found, started, extra, starved = Settled(), time.monotonic(), 0, 0
    several = len({_key(p) for p in candidates}) > 1
    for probe in candidates:
        enough = len(found.probes) >= count
        if enough and (not several or len({_key(p) for p in found.probes}) > 1 or extra >= _EXTRA):
            break
        if time.monotonic() - started > seconds:
            break
        if enough and _key(probe) == _key(found.probes[0]):
            continue
        extra += enough
        try:
            reference.run(probe)
        except (WorkerError, CannotDraw) as error:
            _refuse(found, probe, error)
            kind = error.kind if isinstance(error, WorkerError) else ""
            starved += kind == "memory"  # another probe may take another branch
            if kind in ("load", "crash", "timeout") or starved > 1:
                break
            continue
        found.probes.append(probe)
    return found


def _refuse(found: Settled, probe: Probe, error: WorkerError | CannotDraw) -> None:
    why = error.why if isinstance(error, WorkerError) else str(error)
    if probe.kind == "user":
        raise InputError("the original model does not run on the given inputs", where="inputs", why=why)
    found.refused[probe.name] = why.strip().splitlines()[0][:300] if why.strip() else "refused"
    if isinstance(error, WorkerError):
        found.error = error


def _key(probe: Probe) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(probe.binding.items()))
