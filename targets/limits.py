"""Find out what the installed ONNX Runtime loads at all: the highest opsets and IR version.

It offers no way to ask, and its documentation trails its releases, so models of one node are tried. That
happens in a child process, since this one must not open sessions, and once per build, since the answer is
kept on disk. The models are protobufs written by hand: a few dozen bytes each do not justify importing
``onnx``.

ONNX Runtime loads unreleased opsets when the environment variable ``ALLOW_RELEASED_ONNX_OPSET_ONLY`` is
``0``; the child inherits it, and the answer is kept for each of its values. Every model's node is one of the
domain in question, because without such a node even an opset far above any schema then loads.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import msgspec

from targets.disk_cache import default_folder, remembered
from targets.errors import TargetError
from targets.installed import installed

_PROBES = {"": "Identity", "ai.onnx.ml": "Binarizer"}
"""An operator with one float input and output for each domain, there since its first opset."""
_HIGHEST = 64
"""Versions are tried up to here."""
_FORMAT = 1
"""Version of the stored form and of the probes; a change makes old cache files unused."""
_SAFE_IR = 4
"""An IR version that every runtime in use loads."""
_SECONDS = 120
"""How long the child may take; it needs less than one second."""
_VARIABLE = "ALLOW_RELEASED_ONNX_OPSET_ONLY"
"""ONNX Runtime's own switch: ``0`` lets unreleased opsets load."""

_CHILD = """
import base64, json, sys
import onnxruntime
options = onnxruntime.SessionOptions()
options.log_severity_level = 4
def error(model):
    try:
        onnxruntime.InferenceSession(base64.b64decode(model), options, providers=["CPUExecutionProvider"])
    except Exception as refusal:
        return str(refusal) or "refused"
    return ""
models = json.load(sys.stdin)
json.dump({name: [error(model) for model in tried] for name, tried in models.items()}, sys.stdout)
"""
"""The child's program: try every model, and print why each was refused."""


class Limits(msgspec.Struct, frozen=True):
    """Hold the highest versions that load."""

    max_opset: dict[str, int]
    """Highest opset by domain; ``""`` is ``ai.onnx``."""
    max_ir: int
    """Highest IR version."""


def runtime_limits(*, cache: Path | None = None) -> tuple[int, int]:
    """Return the highest ``ai.onnx`` opset and IR version that the installed ONNX Runtime loads."""
    limits = probe(cache=cache)
    return limits.max_opset[""], limits.max_ir


def probe(*, cache: Path | None = None) -> Limits:
    """Return what the installed ONNX Runtime loads; raise ``TargetError`` when that cannot be found out.

    ``cache`` is the folder that remembers the answer, by default the user's.
    """
    current, mode = installed(), hashlib.sha256(os.environ.get(_VARIABLE, "").encode()).hexdigest()[:8]
    key = f"limits-{_FORMAT}-{current.version}-{current.build}-{mode}"
    return _remembered(key, default_folder() if cache is None else cache)


@lru_cache(maxsize=8)
def _remembered(key: str, folder: Path) -> Limits:
    """Return the limits stored under ``key``, asking a child when there are none."""
    return remembered(Limits, _ask_child, key=key, folder=folder)


def _ask_child() -> Limits:
    """Try all versions in a fresh process."""
    versions = range(1, _HIGHEST + 1)
    tried = {
        f"opset {domain}": [_model(_SAFE_IR, domain, version) for version in versions] for domain in _PROBES
    }
    tried["ir"] = [_model(version, "", 1) for version in versions]
    refusals = _run({name: [base64.b64encode(model).decode() for model in tried[name]] for name in tried})
    highest = {name: _highest(name, errors) for name, errors in refusals.items()}
    return Limits({domain: highest[f"opset {domain}"] for domain in _PROBES}, highest["ir"])


def _run(models: dict[str, list[str]]) -> dict[str, list[str]]:
    """Run the child, which finds its modules where this process does and never in the current folder."""
    places = os.pathsep.join(place for place in sys.path if place)
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _CHILD],
            input=json.dumps(models),
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=True,
            env=os.environ | {"PYTHONPATH": places},
        )
        return msgspec.json.decode(done.stdout, type=dict[str, list[str]])
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        why = f"trying out ONNX Runtime failed with exit status {error.returncode} ({last})"
    except subprocess.TimeoutExpired:
        why = f"trying out ONNX Runtime took more than {_SECONDS} seconds"
    except (OSError, msgspec.DecodeError) as error:
        why = f"ONNX Runtime could not be tried out ({error})"
    raise TargetError(why, hint="see whether `python -c 'import onnxruntime'` works")


def _highest(name: str, refusals: list[str]) -> int:
    """Return the highest version that was not refused."""
    loaded = [version for version, refusal in enumerate(refusals, start=1) if not refusal]
    if not loaded:
        raise TargetError(f"ONNX Runtime loads no version of {name} ({refusals[0].splitlines()[0]})")
    return loaded[-1]


def _model(ir_version: int, domain: str, opset: int) -> bytes:
    """Write a model of one node of ``domain``; the field numbers are those of ``onnx.proto``."""
    node = _text(1, "x") + _text(2, "y") + _text(4, _PROBES[domain]) + _text(7, domain)
    graph = _field(1, node) + _text(2, "probe") + _field(11, _matrix("x")) + _field(12, _matrix("y"))
    return _field(1, ir_version) + _field(7, graph) + _field(8, _text(1, domain) + _field(2, opset))


def _matrix(name: str) -> bytes:
    """Write a value that is a matrix of one float."""
    dimension = _field(1, 1)
    shape = _field(1, dimension) * 2
    return _text(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def _text(number: int, text: str) -> bytes:
    """Write a field that holds a string."""
    return _field(number, text.encode())


def _field(number: int, content: bytes | int) -> bytes:
    """Write one protobuf field: a number as a varint, bytes with their length before them."""
    if isinstance(content, int):
        return _varint(number << 3) + _varint(content)
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Write a non-negative number, seven bits a byte, the lowest first."""
    head = b""
    while number > 0x7F:
        head += bytes([number & 0x7F | 0x80])
        number >>= 7
    return head + bytes([number])
