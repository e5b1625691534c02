"""The program that opens a bundle in a device's environment: ``BUNDLE [FEEDS.npz OUTPUTS.npz]``.

The last line on standard output is JSON: which version of the runtime it was, the providers of the session, and who
has which nodes.  Whatever the session was not given as it was asked for is an error.  Without feeds the bundle is
opened once and nothing is run, as for a provider that only compiles here.
"""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from compiler import load_session
from compiler.backend.session import read_bundle
from compiler.measure.assignment import read_assignment


def main(bundle: str, feeds: str = "", outputs: str = "") -> None:
    """Do as the arguments say, and answer."""
    warnings.simplefilter("error")
    found = read_bundle(bundle)
    answer: dict[str, Any] = {"version": onnxruntime.__version__}
    answer["assignment"] = asdict(read_assignment(found.model, found.settings))
    if feeds:
        session = load_session(bundle)
        answer["providers"] = session.get_providers()
        with np.load(feeds) as given:
            results = session.run(None, dict(given))
        np.savez(Path(outputs), *results)
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
