"""The program that opens a model and tells which node the runtime gave to which provider; one JSON object each way.

What it opens may bring a driver down, or hang while it compiles, so it is a process of its own, and ends at once.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main() -> None:
    """Read ``{"path", "model", "settings"}`` and write ``{"providers", "subgraphs"}`` or ``{"error"}``."""
    request = json.load(sys.stdin)
    sys.path[:] = request["path"]
    try:
        answer = assignment(request["model"], request["settings"])
    except Exception as error:  # the runtime's errors have no parent of their own
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, sys.stdout)


def assignment(model: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Open a model as it is deployed; return provider → operator → nodes for each group that a provider took."""
    import onnxruntime as ort

    from compiler.backend.session import apply_settings, choose_providers

    options = ort.SessionOptions()
    apply_settings(options, settings)
    options.log_severity_level = 4
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    providers = choose_providers(settings, ort.get_available_providers())
    session = ort.InferenceSession(model, options, providers=providers, enable_fallback=False)
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
