"""Define what a target file says: one frozen class per TOML table, whose field docstrings are the manual.

Considered and rejected: reading TOML straight into these classes with ``msgspec.toml``. It names neither the
file nor the key inside a free-form table, and stops knowing which file a key came from once ``extends`` has
merged two; ``decode.py`` walks these classes instead and uses msgspec for the leaves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from targets.names import THREAD_COUNT_WORDS
from targets.quantity import Bandwidth, Duration, Size, Throughput

Scalar = str | int | float | bool
"""What an option of an execution provider may be; ONNX Runtime itself only ever sees strings."""

DType = Literal["f64", "f32", "f16", "bf16", "f8", "f4", "i64", "i32", "i16", "i8", "i4", "i2"]
"""Element types whose speed a target may state: floating point by format, integers by width."""


@dataclass(frozen=True, kw_only=True)
class Caches:
    """Give the sizes of the data caches, one instance of each."""

    l1d: Size | None = None
    """First-level data cache of one core; absent when unknown."""
    l2: Size | None = None
    """Second-level cache of one core (or of the device); absent when unknown."""
    l3: Size | None = None
    """Last-level cache that the cores share; absent when there is none or it is unknown."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Say what the machine is, as far as the cost model asks; calibration on the machine replaces it."""

    isa: tuple[str, ...] = ()
    """Instruction set extensions, spelled as in ``/proc/cpuinfo``: ``avx2``, ``avx512_vnni``, ``asimddp``."""
    cores: int
    """Physical cores that inference may use."""
    caches: Caches = Caches()
    """Cache sizes."""
    memory: Size | None = None
    """Main (or device) memory; absent when unknown."""
    bandwidth: Bandwidth
    """Memory bandwidth that all cores together reach on large tensors."""
    transfer: Bandwidth | None = None
    """Bandwidth of copies between the memories of host and device; absent where they share one."""
    launch: Duration
    """Fixed cost of running one node, whatever its size."""
    flops: dict[DType, Throughput]
    """Arithmetic that large matrix products reach, by element type; ``/core`` where it grows with cores."""


@dataclass(frozen=True, kw_only=True)
class Int8:
    """Say in which form 8-bit quantized operators run fast here."""

    activations: Literal["u8", "s8"]
    """Signedness of quantized activations."""
    weights: Literal["u8", "s8"]
    """Signedness of quantized weights."""
    per_channel: bool
    """Whether one scale per output channel costs nothing."""
    exact_with: tuple[str, ...] = ()
    """Extensions any of which makes integer products accumulate exactly; empty where they always do.

    Without them, x86 adds two products in 16 bits that saturate, and weights must keep to 7 bits.
    """


@dataclass(frozen=True, kw_only=True)
class Numerics:
    """Say which number formats are worth computing in, and in which form quantization may use integers."""

    floats: tuple[Literal["f64", "f32", "f16", "bf16"], ...] = ("f32",)
    """Formats with arithmetic kernels of their own, the preferred first; others are converted, or fail."""
    int8: Int8 | None = None
    """The fast form of 8-bit operators; absent where there is none."""


@dataclass(frozen=True, kw_only=True)
class Constraints:
    """Say what the provider demands of a model beyond its table of kernels; legalization sees to it."""

    compiles: bool = False
    """Whether the provider compiles subgraphs as a whole, so that ONNX Runtime's own fusions do not reach them."""
    contrib: tuple[str, ...] | None = None
    """Operators of ``com.microsoft`` that it runs; absent where its table of kernels says so."""
    lacks: tuple[str, ...] = ()
    """Operators of its table that it does not run in this configuration; ``com.microsoft::NAME`` for those."""
    static_shapes: bool = False
    """Whether every dim of an input must be a number; ``--dim NAME=SIZE`` gives those that the model leaves open."""
    max_rank: int | None = None
    """Greatest rank of any tensor; absent for no bound."""
    constant_weights: tuple[str, ...] = ()
    """Operators whose weights must be constants."""
    empty_tensors: bool = True
    """Whether tensors without elements are allowed."""
    narrow_int64: bool = False
    """Whether indices should be 32-bit integers."""


@dataclass(frozen=True, kw_only=True)
class Opset:
    """Choose the ``ai.onnx`` opset of the emitted model, which decides the kernels that its nodes match."""

    min: int | None = None
    """Lowest opset that may be emitted; absent for no bound."""
    max: int | None = None
    """Highest opset that may be emitted; absent for what the installed ONNX Runtime loads."""
    known: int | None = None
    """Highest opset of which the first provider has kernels; only a model that cannot be said in it goes beyond."""
    prefer: int | None = None
    """Opset to emit when the model fits it; absent to stay at the model's own, within the bounds."""

    @property
    def highest(self) -> int | None:
        """Return the highest opset that is emitted without need; ``None`` for any."""
        return min((n for n in (self.max, self.known) if n is not None), default=None)


@dataclass(frozen=True, kw_only=True)
class IrVersion:
    """Bound the IR version of the emitted model."""

    max: int | None = None
    """Highest IR version that may be emitted; absent for what the installed ONNX Runtime loads."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Say how ONNX Runtime is to be set up for the emitted model."""

    providers: tuple[tuple[str, dict[str, Scalar]], ...]
    """Execution providers in order of priority, each with its options: ``[["CPUExecutionProvider", {}]]``."""
    options: dict[str, dict[str, Scalar]] = field(default_factory=dict)
    """Options by provider, laid over those in ``providers`` on loading, so that an extending file can change one."""
    session: dict[str, str | int | bool] = field(default_factory=dict)
    """Fields of ``SessionOptions`` by name, and session config entries by their dotted name."""
    opset: Opset = Opset()
    """The opset to emit."""
    ir_version: IrVersion = IrVersion()
    """The IR version to emit."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """Say which passes run."""

    passes: tuple[str, ...] = ()
    """Passes in order, in pipelines' text form (``"fold"``, ``"fuse{limit=10}"``); empty for the default."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """Describe a machine to compile for: what it is, how it counts, ONNX Runtime's set-up, the passes."""

    name: str
    """The name that ``--target`` takes and that reports show."""
    extends: str = ""
    """The target whose keys this one starts from; tables merge key by key, everything else is replaced."""
    summary: str
    """One line for the list of targets."""
    machine: Machine
    """The machine."""
    numerics: Numerics = Numerics()
    """Number formats."""
    constraints: Constraints = Constraints()
    """Demands of the provider."""
    runtime: Runtime
    """ONNX Runtime's set-up."""
    pipeline: Pipeline = Pipeline()
    """The passes."""
    source: str = ""
    """The file it was read from; set on loading, not a key of the file."""
    detected: bool = False
    """Whether ``machine`` was read by ``auto`` from the machine that we run on; not a key of the file."""

    @property
    def reduce_range(self) -> bool:
        """Whether 8-bit weights must keep to 7 bits, since this machine's integer products saturate."""
        exact = self.numerics.int8.exact_with if self.numerics.int8 else ()
        return bool(exact) and not set(exact) & set(self.machine.isa)

    def session_settings(self) -> dict[str, Any]:
        """Return ``{"providers": [[name, options]], "session_options": {...}, "config_entries": {...}}``.

        The values are plain (strings, numbers, booleans), so that the result can be stored as JSON and
        applied by a loader that knows nothing about targets. Options of providers become strings, as ONNX
        Runtime takes them.
        """
        session = self.runtime.session
        return {
            "providers": [
                [name, {key: _option_text(value) for key, value in options.items()}]
                for name, options in self.runtime.providers
            ],
            "session_options": {
                key: _field_value(key, value) for key, value in session.items() if "." not in key
            },
            "config_entries": {key: value for key, value in session.items() if "." in key},
        }


NOT_IN_FILES = frozenset({"source", "detected"})
"""Fields of ``Target`` that loading fills in; in a file they are unknown keys."""


def _option_text(value: Scalar) -> str:
    """Spell an option's value as ONNX Runtime reads it: booleans are ``1`` and ``0``."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _field_value(key: str, value: str | int | bool) -> str | int | bool:
    """Resolve the words that stand for a number of threads."""
    return THREAD_COUNT_WORDS[value] if key.endswith("_threads") and isinstance(value, str) else value
