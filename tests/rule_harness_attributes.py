"""Attributes of an instance: as written, at their default (written out or not), or drawn as the schema has them."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from compiler.ir.dtype import DType
from compiler.ir.graph import Attr
from compiler.ir.syntax import Attribute
from compiler.rewrite.match import plain_attribute
from tests.rule_harness_draft import Undrawable
from tests.rule_harness_site import Site


def written_attributes(site: Site) -> dict[str, Attr]:
    """Return the attributes that the rule writes out, and those of ``$`` variables that are bound."""
    found = {}
    for name, written in site.statement.attributes.items():
        value = _written(site, name, written)
        if value is not None:
            found[name] = value
    return found


def _written(site: Site, name: str, written: Attribute) -> Attr | None:
    if written.kind == "variable":
        bound = site.draft.env.attributes.get(written.value)
        return bound if isinstance(bound, Attr) else None
    if written.kind == "dim":
        (dim,) = site.draft.evaluate(written.value)
        return Attr("int", site.draft.size(dim))
    return _typed(site, name, plain_attribute(written))


def _typed(site: Site, name: str, value: Any) -> Attr:
    kinds = site.formals.kinds if site.formals is not None else {}
    kind = kinds.get(name) or {int: "int", float: "float", str: "string", tuple: "ints"}.get(type(value), "tensor")
    if kind == "float":
        return Attr(kind, float(np.float32(value)))
    if kind == "floats":
        return Attr(kind, tuple(float(np.float32(v)) for v in value))
    return Attr(kind, tuple(value) if isinstance(value, list) else value)


def draw_variables(site: Site) -> None:
    """Draw the attributes of ``$`` variables that are not bound yet."""
    for name, written in site.statement.attributes.items():
        if written.kind == "variable" and written.value not in site.draft.env.attributes:
            made = _drawn(site, name, written.value)
            site.draft.env.attributes[written.value] = made
            if made is not None:
                site.attributes[name] = made


def _drawn(site: Site, name: str, variable: str) -> Attr | None:
    words = site.draft.rule.domain.get(variable)
    if words and words.startswith("["):
        return _typed(site, name, tuple(ast.literal_eval(words)))
    if words:
        kind = DType.F64 if site.formals is None or site.formals.kinds.get(name) == "float" else DType.I64
        return _typed(site, name, site.draft.data(variable, kind, ()).item())
    default = site.formals.defaults.get(name) if site.formals is not None else None
    draw = _DRAWN.get(name)
    if draw is None and site.formals is not None and name in site.formals.required:
        return _typed(site, name, _ONES[site.formals.kinds[name]])
    if draw is None:
        return None if default is None or site.choices.chance(50) else _typed(site, name, default)
    if default is not None and site.choices.chance(25):
        return None
    value = draw(site)
    return None if value is None else _typed(site, name, value)


def vary_defaults(site: Site) -> None:
    """Leave out an attribute that is at its default, or write one out that is not mentioned."""
    for name, default in (site.formals.defaults if site.formals is not None else {}).items():
        found = site.attributes.get(name)
        if found is not None and found.value == default and site.choices.chance(40):
            del site.attributes[name]
        elif found is None and name not in site.statement.attributes and site.choices.chance(8):
            site.attributes[name] = _typed(site, name, default)
    axis = site.attributes.get("axis")
    rank = len(site.shape(0) or ())
    if axis is not None and axis.kind == "int" and -rank <= axis.value < rank and site.choices.chance(30):
        site.attributes["axis"] = Attr("int", axis.value % rank if axis.value < 0 else axis.value - rank)


_ONES: dict[str, Any] = {"int": 1, "float": 1.0, "ints": (1,), "floats": (1.0,)}
"""Kind → a value for an attribute that must be set, and of which nothing is known."""


def _axis(site: Site) -> int:
    rank = len(site.need(0))
    if rank == 0:
        raise Undrawable(f"{site.op} of a scalar has no axis")
    options: tuple[int, ...] = (-1, *range(rank), *range(-rank, -1))
    return site.choices.pick(options)


def _permutation(site: Site) -> tuple[int, ...]:
    return site.choices.permutation(len(site.need(0)))


def _to(site: Site) -> int:
    output = site.statement.outputs[0]
    found = site.draft.dtypes.of(f"%{output.name}") if output is not None else None
    if found is None:
        raise Undrawable("no element type suits the result of Cast")
    return found.code


def _factor(site: Site) -> float:
    return site.choices.pick((0.5, 2.0, -1.0, 1.0, 0.01, 1.702))


def _epsilon(site: Site) -> float:
    return site.choices.pick((1e-5, 1e-3, 0.1, 1e-6))


def _flag(site: Site) -> int:
    return site.choices.below(2)


def _groups(site: Site) -> int:
    """Return a number that divides the channels, which stand second, or last in operators that say so."""
    shape = site.need(0)
    axis = -1 if site.op.endswith("GroupNorm") and site.plain("channels_last") != 0 else 1
    channels = site.draft.size(shape[axis]) if len(shape) > 1 else 1
    return site.choices.pick([k for k in range(1, channels + 1) if channels % k == 0] or [1])


def _ones(site: Site) -> tuple[int, ...]:
    return tuple(site.choices.pick((1, 1, 2)) for _ in site.need(0)[2:])


def _pads(site: Site) -> tuple[int, ...]:
    return tuple(site.choices.pick((0, 1)) for _ in (*site.need(0)[2:], *site.need(0)[2:]))


def _window(site: Site) -> tuple[int, ...]:
    weight = site.shape(1)
    if weight is not None:
        return site.draft.sizes(weight[2:])
    return tuple(site.choices.pick((1, 2, 3)) for _ in site.need(0)[2:])


def _output_count(site: Site) -> int | None:
    return len(site.statement.outputs) if site.choices.chance(40) else None


def _approximate(site: Site) -> str:
    return site.choices.pick(("none", "tanh"))


_DRAWN: dict[str, Callable[[Site], Any]] = {
    "axis": _axis,
    "perm": _permutation,
    "to": _to,
    "alpha": _factor,
    "beta": _factor,
    "scale": _factor,
    "softcap": _epsilon,
    "epsilon": _epsilon,
    "keepdims": _flag,
    "transA": _flag,
    "transB": _flag,
    "is_causal": _flag,
    "unidirectional": _flag,
    "interleaved": _flag,
    "upper": _flag,
    "exclusive": _flag,
    "reverse": _flag,
    "num_groups": _groups,
    "groups": _groups,
    "group": _groups,
    "strides": _ones,
    "dilations": _ones,
    "pads": _pads,
    "kernel_shape": _window,
    "approximate": _approximate,
    "num_outputs": _output_count,
}
"""Attribute → what draws it; others are at their default."""


