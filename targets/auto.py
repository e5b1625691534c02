"""Describe the machine that we run on as a target: the CPU target that fits, with what was read filled in."""

from __future__ import annotations

import dataclasses

from targets.load import load
from targets.machine import ThisMachine, machine
from targets.schema import Caches, Machine, Runtime, Target


def auto(this: ThisMachine | None = None) -> Target:
    """Return the best CPU target for this machine (or for ``this``), marked as detected.

    Speeds are the target's: they are for calibration to replace. The name is the target's too, so that what
    was measured on one machine of a kind serves the others.
    """
    this = this or machine()
    target = load(this.best_target())
    return dataclasses.replace(
        target,
        machine=_machine(target.machine, this),
        runtime=_runtime(target.runtime, this),
        detected=True,
    )


def _machine(assumed: Machine, this: ThisMachine) -> Machine:
    """Replace what the target assumes by what was read."""
    caches = {
        level: getattr(this.caches, level) or getattr(assumed.caches, level) for level in ("l1d", "l2", "l3")
    }
    return dataclasses.replace(
        assumed,
        isa=this.isa,
        cores=this.cores,
        caches=Caches(**caches),
        memory=this.memory or assumed.memory,
    )


def _runtime(assumed: Runtime, this: ThisMachine) -> Runtime:
    """Set the number of threads where ONNX Runtime would start too many.

    Left to itself it starts a thread per physical core of the machine and binds it there, whatever share of
    the machine a container grants.
    """
    threads = assumed.session.get("intra_op_num_threads", 0)
    if not this.limited or threads not in (0, "physical"):
        return assumed
    return dataclasses.replace(assumed, session=assumed.session | {"intra_op_num_threads": this.cores})
