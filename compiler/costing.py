"""The cost model that a compilation chooses by: this machine's calibration if there is one, else the shipped one.

What was calibrated here counts only where the target was read from this machine (``auto``); a target that was named
gets the shipped calibration of its provider, so that it compiles to the same bytes everywhere.  A provider without one
has no cost model: lowering then goes by the table of measured gains alone.

Fragments that were measured here under the target's own settings count for every target: tuning for it measured them,
and where nothing was measured there are none.  So the same file of measurements gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compiler.cost.database import Database
    from compiler.cost.model import CostModel
    from compiler.cost.store import Store
    from compiler.ir.graph import Model
    from targets import Target


def cost_model(
    target: Target, model: Model, *, binding: Mapping[str, int] | None = None, database: Database | None = None
) -> CostModel | None:
    """Return the cost model of a target for a model, ``None`` where nothing is known of its provider's kernels.

    ``binding`` gives dims their sizes; those that it leaves out get usual ones.
    """
    from compiler.analysis.work import default_binding
    from compiler.cost.calibration import of_this_machine, shipped
    from compiler.cost.model import CostModel, constant_bytes

    threads = threads_of(target)
    own = (of_this_machine(threads) or of_this_machine(1)) if target.detected else None
    calibration = own or shipped(target.runtime.providers[0][0])
    if calibration is None:
        return None
    return CostModel(
        target,
        default_binding(model, binding or {}),
        calibration=calibration,
        database=database,
        threads=threads,
        weights=constant_bytes(model),
    )


def fragments(target: Target, store: Store | None = None) -> Database | None:
    """Return what was measured under a target's settings, by default in the file in the user's cache folder.

    A store that is only read and holds nothing gives ``None``.
    """
    from compiler.cost.database import Circumstances, Database

    found = open_store(None, write=False) if store is None else store
    if not found.writes and not found.rows("fragments"):
        return None
    provider = target.runtime.providers[0][0]
    return Database(
        found, Circumstances.here(threads=threads_of(target), provider=provider, settings=target.session_settings())
    )


def open_store(path: Path | None, *, write: bool) -> Store:
    """Open the file of measurements that the user named, or else that in the user's cache folder.

    What is wrong with it is its ``trouble``, but raises ``InputError`` where the user named it to be written.
    """
    from compiler.cost.database import default_path
    from compiler.cost.store import Store

    if path is None and write:
        return Store.kept(default_path())
    return Store(path or default_path(), write=write)


def sizes_of(model: Model, inputs: Mapping[str, Any] | None) -> dict[str, int]:
    """Return the sizes of dynamic dims that arrays for a model's inputs have, as far as the arrays tell them."""
    import numpy as np

    found: dict[str, int] = {}
    for value in model.graph.inputs if inputs else ():
        shape = np.shape(inputs[value.name]) if inputs and value.name in inputs else ()
        for dim, size in zip(value.shape or (), shape, strict=False):
            if not isinstance(dim, int) and dim.is_symbol:
                found.setdefault(dim.symbols()[0], size)
    return found


def threads_of(target: Target) -> int:
    """Return the threads that a target's sessions have."""
    given = target.runtime.session.get("intra_op_num_threads", 0)
    return given if isinstance(given, int) and not isinstance(given, bool) and given > 0 else target.machine.cores
