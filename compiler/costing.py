"""The cost model that a compilation chooses by: this machine's calibration if there is one, else the shipped one.

What was calibrated here counts only where the target was read from this machine (``auto``); a target that was named
gets the shipped calibration of its provider, so that it compiles to the same bytes everywhere.  A provider without one
has no cost model: lowering then goes by the table of measured gains alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.cost.database import Database
    from compiler.cost.model import CostModel
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


def threads_of(target: Target) -> int:
    """Return the threads that a target's sessions have."""
    given = target.runtime.session.get("intra_op_num_threads", 0)
    return given if isinstance(given, int) and not isinstance(given, bool) and given > 0 else target.machine.cores
