"""Open what a user names as a model: an ONNX file, IR text, or a ModelProto; and bring it into the form of passes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import InputError
from compiler.frontend.lift import lift, pinned
from compiler.frontend.load import load_model
from compiler.ir.graph import Model
from compiler.ir.infer import infer

if TYPE_CHECKING:
    from onnx import ModelProto


def open_model(source: str | os.PathLike[str] | ModelProto) -> Model:
    """Return a model as it is written, before ``prepare``; raises ``InputError`` for what is no model."""
    if isinstance(source, str | os.PathLike):
        if Path(source).suffix == ".ir":
            from compiler.ir.parser import load_text

            return load_text(Path(source))
    elif type(source).__name__ != "ModelProto":
        raise InputError(f"a model cannot be made of {type(source).__name__}", hint="give a path or an onnx.ModelProto")
    return load_model(source)


def prepare(model: Model) -> None:
    """Lift old operator forms and infer types; some forms can be lifted only when types are known."""
    lift(model)
    infer(model.graph)
    waiting = len(pinned(model.graph))
    if waiting:
        lift(model)
        if len(pinned(model.graph)) < waiting:
            infer(model.graph)
