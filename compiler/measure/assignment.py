"""Ask the installed runtime which node it gives to which provider, in a process that opens the model as deployed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compiler.errors import WorkerError

_PROGRAM = Path(__file__).with_name("assignment_child.py")
_ROOT = Path(__file__).resolve().parents[2]
"""Where the child finds this package, last of all."""
_PLACED = re.compile(r"odes? ?(?:\(s\))? placed on \[(\w+)\]\. Number of nodes: (\d+)")
"""What the runtime logs of each graph: how many nodes a provider has; what it compiled is one node."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the runtime did with the nodes of a model, after its own first optimizations."""

    nodes: dict[str, int]
    """Provider → nodes that it took, or that went into what it compiled."""
    partitions: dict[str, int]
    """Provider → groups of nodes; a provider that does not compile takes each node by itself."""
    operators: dict[str, dict[str, int]]
    """Provider → operator → nodes, the most frequent first; without those that only the log counts."""

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {"nodes": self.nodes, "partitions": self.partitions, "operators": self.operators}


def read_assignment(model: Path, settings: Mapping[str, Any], *, timeout: float = 600.0) -> Assignment:
    """Open a model with its settings and return who took what; raises ``WorkerError`` when it does not open."""
    request = {"path": [*filter(None, sys.path), str(_ROOT)], "model": str(model), "settings": dict(settings)}
    try:
        done = subprocess.run(
            [sys.executable, "-I", str(_PROGRAM)],
            input=json.dumps(request),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=True,
        )
        answer = json.loads(done.stdout)
    except subprocess.CalledProcessError as error:
        why = f"the process ended with status {error.returncode}"
        raise WorkerError("the model cannot be opened as deployed", kind="crash", where=str(model), why=why) from error
    except subprocess.TimeoutExpired as error:
        why = f"it took more than {timeout:g} s"
        raise WorkerError(
            "the model cannot be opened as deployed", kind="timeout", where=str(model), why=why
        ) from error
    except ValueError as error:
        raise WorkerError(
            "the model cannot be opened as deployed", kind="crash", where=str(model), why=str(error)
        ) from error
    if "error" in answer:
        raise WorkerError(
            "the model cannot be opened as deployed", kind="load", where=str(model), why=str(answer["error"])
        )
    return _completed(_summed(answer["subgraphs"]), done.stderr)


def _completed(told: Assignment, log: str) -> Assignment:
    """Return what the runtime told, with the numbers of its log for providers of which that has more nodes.

    ONNX Runtime 1.27 tells of a provider that wants another layout only the nodes that it added for that.
    """
    logged: dict[str, int] = {}
    for provider, count in _PLACED.findall(log):
        logged[provider] = logged.get(provider, 0) + int(count)
    more = {provider: count for provider, count in logged.items() if count > told.nodes.get(provider, 0)}
    known = {provider: counts for provider, counts in told.operators.items() if provider not in more}
    return Assignment(told.nodes | more, told.partitions | more, known)


def _summed(groups: list[tuple[str, dict[str, int]]]) -> Assignment:
    nodes: dict[str, int] = {}
    partitions: dict[str, int] = {}
    operators: dict[str, dict[str, int]] = {}
    for provider, counts in groups:
        nodes[provider] = nodes.get(provider, 0) + sum(counts.values())
        partitions[provider] = partitions.get(provider, 0) + 1
        known = operators.setdefault(provider, {})
        for op, count in counts.items():
            known[op] = known.get(op, 0) + count
    by_count = {p: dict(sorted(c.items(), key=lambda item: (-item[1], item[0]))) for p, c in operators.items()}
    return Assignment(nodes, partitions, by_count)
