"""The public functions: the composition root, and the place where no foreign exception gets out.

Everything heavy is imported inside the functions: ``import compiler`` costs next to nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from compiler.errors import AmpcError, CompilerError, InputError

if TYPE_CHECKING:
    import onnxruntime
    from onnx import ModelProto

    from compiler.result import Result
    from compiler.verify.certificate import Certificate
    from targets import Target

T = TypeVar("T")


def compile_model(
    model: str | os.PathLike[str] | ModelProto,
    *,
    target: str | os.PathLike[str] | Target = "auto",
    output: str | os.PathLike[str] | None = None,
    verify: bool = True,
    verify_each: bool = True,
    passes: str | Sequence[Any] | None = None,
    disable: str | Sequence[str] = (),
    until: str = "",
    select: str = "cost",
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    external_data: bool | None = None,
    dump_ir: str | os.PathLike[str] | None = None,
    repro: str | os.PathLike[str] | None = None,
    log_rewrites: str | os.PathLike[str] | Callable[[str], None] | None = None,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    dims: Mapping[str, int] | None = None,
    device_check: bool = False,
    threads: int | None = None,
    tune: float | None = None,
    database: str | os.PathLike[str] | None = None,
) -> Result:
    """Compile an ONNX model for a target, verify the result against the original, and write it.

    ``model`` is a path (``.onnx``, or ``.ir`` text), or a ModelProto, which is not changed.  ``target`` is a name (see
    ``ampc targets``), the path of a TOML file, or a target that was loaded.  ``output`` is a folder for a bundle, or a
    name that ends in ``.onnx`` for a plain model with its settings beside it; nothing is written when the call raises.

    ``passes`` is a pipeline (text, or a list of passes, pipeline texts and functions ``(graph, ctx) -> bool``) in place
    of the default; ``disable`` names passes and rules to leave out; ``until`` stops after a pass.  ``select`` says
    which form of an operator is taken: ``"fused"``, the most fused one that the target runs, ``"cost"``, one only
    where it was measured to be faster, ``"standard"``, operators of ai.onnx only.

    ``inputs`` (an ``.npz``, or a mapping of arrays) are checked besides the generated ones.  ``external_data`` forces
    or forbids a data file, which there is by default above 1 GiB.  ``dump_ir`` is a folder for the IR after each pass,
    ``repro`` one for reproductions of what had to be rolled back, ``log_rewrites`` a file for every rewrite, before
    and after, as text, or a function that takes these texts.  ``timeout`` (seconds) and ``memory_limit`` (bytes) bound
    each request to the child process that runs models.  ``progress`` is called with the name of each step.

    ``dims`` gives open dims of the inputs their sizes, by name (``batch``) or by input and axis (``pixels.0``): the
    result takes no others.  Targets that compile ahead of time need all of them.  ``device_check`` makes it an error
    that the target's first execution provider is not installed, or does not open the result; otherwise the result is
    checked on the CPU, and marked as not run on the device.

    ``threads`` replaces the target's number of threads, 0 for one per core.  ``tune`` measures on this machine for at
    most so many seconds: rules whose gain is uncertain, settings of the session, and the result against the original as
    the runtime runs it by default; what makes it slower is left out.  ``database`` is the file of what was measured, by
    default one in the user's cache folder: nothing in it is measured again, and ``tune=0`` goes by it alone.

    Raises ``InputError`` (``ModelError`` for the model itself) for what the caller can mend, else ``CompilerError``.
    """

    def run() -> Result:
        from compiler.compilation import Compilation
        from compiler.options import Options

        options = Options(
            target=str(target) if isinstance(target, str | os.PathLike) else target,
            output=Path(output) if output is not None else None,
            verify=verify,
            verify_each=verify_each,
            passes=passes,
            disable=(disable,) if isinstance(disable, str) else tuple(disable),
            until=until,
            select=select,
            inputs=_arrays(inputs),
            external_data=external_data,
            dump_ir=Path(dump_ir) if dump_ir is not None else None,
            repro=Path(repro) if repro is not None else None,
            log_rewrites=log_rewrites,
            timeout=timeout,
            memory_limit=memory_limit,
            seed=seed,
            progress=progress,
            dims=dict(dims or {}),
            device_check=device_check,
            threads=threads,
            tune=_budget(tune),
            database=Path(database) if database is not None else None,
        )
        return Compilation(model, options).run()

    return guarded(run)


def check_models(
    first: str | os.PathLike[str] | ModelProto,
    second: str | os.PathLike[str] | ModelProto,
    *,
    inputs: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    timeout: float = 120.0,
    memory_limit: int | None = None,
    seed: int = 0,
) -> Certificate:
    """Check whether two models (files, bundles or ModelProtos) have one interface and compute the same.

    Raises ``InputError`` when one of them cannot be read or has another interface than the other.
    """

    def run() -> Certificate:
        from compiler.checking import check

        return check(first, second, inputs=_arrays(inputs), timeout=timeout, memory_limit=memory_limit, seed=seed)

    return guarded(run)


def load_session(path: str | os.PathLike[str]) -> onnxruntime.InferenceSession:
    """Open a bundle or an ``.onnx`` file as an ONNX Runtime session with the settings that belong to it."""

    def run() -> onnxruntime.InferenceSession:
        from compiler.backend.session import load_session as load

        return load(path)

    return guarded(run)


def guarded(run: Callable[[], T]) -> T:
    """Run; whatever is not an error of ours becomes one."""
    try:
        with _without_cycle_collection():
            return run()
    except AmpcError:
        raise
    except MemoryError as error:
        raise CompilerError("out of memory", hint="use a machine with more memory, or external data") from error
    except Exception as error:
        raise CompilerError(
            "ampc failed in a way that it should not",
            where=_last_frame(error),
            why=f"{type(error).__name__}: {error}",
            hint="please report this with the model; `--disable PASS` may avoid it",
        ) from error


@contextlib.contextmanager
def _without_cycle_collection() -> Iterator[None]:
    """Keep Python from searching a growing graph for garbage cycles: a quarter of the time of large models."""
    import gc

    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _budget(seconds: float | None) -> float | None:
    if seconds is not None and not 0 <= seconds < float("inf"):
        raise InputError(f"{seconds!r} is no time to tune in", hint="give seconds, 0 to go by what was measured before")
    return seconds


def _last_frame(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"


def _arrays(inputs: str | os.PathLike[str] | Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    if inputs is None or isinstance(inputs, Mapping):
        return inputs
    import zipfile

    import numpy as np

    try:
        with np.load(inputs, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise InputError(
            "the inputs cannot be read",
            where=str(inputs),
            why=str(error),
            hint="save them with numpy.savez(path, name=array)",
        ) from error
