"""The program that opens a model and tells which node the runtime gave to which provider; one JSON object each way.

What it opens may bring a driver down, or hang while it compiles, so it is a process of its own, and ends at once.
Drivers print: what is written to standard output while the model opens goes to standard error, where the log of the
session is as well, in full, since it counts the nodes that some releases leave out of what they tell.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Read ``{"path", "model", "settings"}`` and write ``{"providers", "subgraphs"}`` or ``{"error"}``."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        answer = assignment(request["model"], request["settings"])
    except Exception as error:  # the runtime's errors have no parent of their own
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, answers)
    answers.flush()


def assignment(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Open a model as it is deployed; return provider → operator → nodes for each group that a provider took."""
    import onnxruntime as ort

    from compiler.backend.session import apply_settings, choose_providers
    from compiler.backend.session_plugins import available_providers, open_model

    options = ort.SessionOptions()
    apply_settings(options, settings)
    options.log_severity_level = 0
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = open_model(model, options, choose_providers(settings, available_providers()))
    groups = []
    for group in session.get_provider_graph_assignment_info():
        counts: dict[str, int] = {}
        for node in group.get_nodes():
            name = f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
            counts[name] = counts.get(name, 0) + 1
        groups.append([group.ep_name, counts])
    return {"providers": session.get_providers(), "subgraphs": groups}


if __name__ == "__main__":
    main()
