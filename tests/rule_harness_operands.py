"""Operands whose numbers decide about shapes, or count elements: shapes, axes, indices, splits, repeats.

They are constants, or, for shapes with symbols, what exporters make: a part of another value's ``Shape``.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np

from compiler.ir.dims import Dim, Expr, is_static, product, symbol
from compiler.ir.dtype import DType
from compiler.ir.facts import at_least, known_contents
from compiler.ir.graph import Attr, Value
from compiler.ir.syntax import Operand, Run
from compiler.ir.types import Shape
from tests.rule_harness_draft import Draft, Undrawable
from tests.rule_harness_site import Site

Made = Callable[[Site, int], Value | None]


def structural(site: Site, index: int) -> Made | None:
    """Return what makes an operand that is structure rather than data, ``None`` for data."""
    if site.statement.domain:
        return None
    return _MAKERS.get((site.op, index)) or (_axes if site.op.startswith("Reduce") and index == 1 else None)


def shape_value(draft: Draft, shape: Sequence[Dim]) -> Value:
    """Return a vector of dims: a constant, or computed from the shapes of values that have them."""
    if is_static(shape):
        return draft.integers([int(d) for d in shape])  # type: ignore[arg-type]  # all are numbers
    parts = [_dim_value(draft, d) for d in shape]
    return parts[0] if len(parts) == 1 else draft.apply("Concat", parts, {"axis": Attr("int", 0)}, "shape")


def _dim_value(draft: Draft, dim: Dim) -> Value:
    if isinstance(dim, int):
        return draft.integers([dim])
    for value in (v for v in draft.inputs if v.shape is not None):
        if dim in (value.shape or ()):
            axis = (value.shape or ()).index(dim)
            return draft.apply("Shape", [value], {"start": Attr("int", axis), "end": Attr("int", axis + 1)}, "dim")
    for value in (v for v in draft.inputs if v.shape is not None):
        for axis, other in enumerate(value.shape or ()):
            for factor in range(2, 9):
                if other == dim * factor:
                    attributes = {"start": Attr("int", axis), "end": Attr("int", axis + 1)}
                    whole = draft.apply("Shape", [value], attributes, "dim")
                    return draft.apply("Div", [whole, draft.integers([factor])], {}, "part")
    return _product_value(draft, dim)


def _product_value(draft: Draft, dim: Expr) -> Value:
    if len(dim.terms) != 1:
        raise Undrawable(f"no input has the dim {dim}")
    ((monomial, coefficient),) = dim.terms
    factors: list[Dim] = [symbol(name) for name, power in monomial for _ in range(power) if isinstance(name, str)]
    if coefficient != 1:
        factors.append(coefficient)
    if len(factors) < 2 or product(factors) != dim:
        raise Undrawable(f"no input has the dim {dim}")
    made = _dim_value(draft, factors[0])
    for factor in factors[1:]:
        made = draft.apply("Mul", [made, _dim_value(draft, factor)], {}, "size")
    return made


def _reshaped(site: Site, index: int) -> Value:
    data = site.need(0)
    target = _reshape_target(site, data)
    unknown = [i for i, d in enumerate(target) if not isinstance(d, int)]
    copied = [i for i in unknown if i < len(data) and data[i] == target[i]]
    rest = [i for i in unknown if i not in copied]
    plain = 0 not in site.draft.sizes(target) and 0 not in site.draft.sizes(data)
    if unknown and (len(rest) > 1 or not plain or site.choices.chance(40)):
        return shape_value(site.draft, target)
    numbers = [0 if i in copied else -1 if i in rest else int(d) for i, d in enumerate(target)]  # type: ignore[arg-type]
    if not unknown and numbers and plain and site.choices.chance(40):
        numbers[site.choices.below(len(numbers))] = -1
    return site.integers(index, numbers)


def _reshape_target(site: Site, data: Shape) -> Shape:
    """Return the dims after a ``Reshape``: as written, where open dims are drawn so that the sizes agree."""
    written = site.written()
    if written is None or written.dims is None:
        sizes = site.draft.sizes(data)
        return site.choices.pick(((math.prod(sizes),), (*sizes, 1), (1, *sizes), _merged(sizes), sizes))
    open_names = [n for d in written.dims if isinstance(d, Expr) and d.is_symbol for n in d.symbols()]
    open_names = [n for n in dict.fromkeys(open_names) if n not in site.draft.env.dims]
    runs = [d for d in written.dims if isinstance(d, Run) and d.name not in site.draft.env.runs]
    if not open_names or runs:
        found = site.demand()
        assert found is not None
        return found
    fixed = [d for w in written.dims for d in _known(site, w, open_names)]
    total, part = math.prod(site.draft.sizes(data)), math.prod(site.draft.sizes(fixed))
    if part == 0 or total % part:
        raise Undrawable(f"{total} elements do not make [{', '.join(map(str, fixed))}, ...]")
    rest = total // part
    for name in open_names[:-1]:
        here = site.choices.pick([k for k in range(1, rest + 1) if rest % k == 0] or [0])
        site.draft.env.dims[name] = here
        rest = rest // here if here else 0
    divisor = product((*fixed, *(site.draft.env.dims[n] for n in open_names[:-1])))
    exact = product(data) // divisor if divisor != 0 else 0
    symbolic = isinstance(exact, Expr) and "//" not in exact.text
    site.draft.env.dims[open_names[-1]] = exact if symbolic else rest
    found = site.demand()
    assert found is not None
    return found


def _known(site: Site, written: Dim | Run, open_names: list[str]) -> Shape:
    names = written.symbols() if isinstance(written, Expr) else []
    return () if any(n in open_names for n in names) else site.draft.evaluate(written)


def _merged(sizes: tuple[int, ...]) -> tuple[int, ...]:
    return (sizes[0] * sizes[1], *sizes[2:]) if len(sizes) > 1 else sizes


def _expanded(site: Site, index: int) -> Value:
    data, target = site.need(0), site.demand()
    if target is None:
        grown = tuple(site.random_dim() if d == 1 else d for d in data)
        target = (site.random_dim(), *grown) if site.choices.chance(40) else grown
    return shape_value(site.draft, target)


def _axes(site: Site, index: int) -> Value | None:
    rank = len(site.need(0))
    formal = site.formals.input(index) if site.formals is not None else None
    if formal is not None and formal.optional and site.op.startswith("Reduce") and site.choices.chance(10):
        return None
    if rank == 0:
        return site.integers(index, [])
    count = 1 + site.choices.below(min(rank, 2))
    axes = site.draft.axes if site.choices.chance(70) else []
    if not axes or max(axes) >= rank:
        axes = sorted(site.choices.permutation(rank)[:count])
    site.draft.axes = axes
    return _signed(site, index, axes, rank)


def _signed(site: Site, index: int, axes: list[int], rank: int) -> Value:
    return site.integers(index, [a - rank if site.choices.chance(30) else a for a in axes])


def _unsqueezed(site: Site, index: int) -> Value:
    data, target = site.need(0), site.demand()
    if target is None:
        rank = len(data) + 1 + site.choices.below(2)
        return _signed(site, index, sorted(site.choices.permutation(rank)[: rank - len(data)]), rank)
    axes = _inserted(data, target)
    if axes is None:
        raise Undrawable(f"{data} is not {target} without ones")
    return _signed(site, index, axes, len(target))


def _squeezed(site: Site, index: int) -> Value:
    data, target = site.need(0), site.demand()
    axes = _inserted(target, data) if target is not None else [i for i, d in enumerate(data) if d == 1][:1]
    if axes is None:
        raise Undrawable(f"{target} is not {data} without ones")
    return _signed(site, index, axes, len(data))


def _inserted(small: Shape, large: Shape) -> list[int] | None:
    """Return where ones stand in ``large`` that ``small`` lacks, ``None`` when that is not the difference."""
    for axes in itertools.combinations(range(len(large)), max(0, len(large) - len(small))):
        rest = tuple(d for i, d in enumerate(large) if i not in axes)
        if rest == tuple(small) and all(large[i] == 1 for i in axes):
            return list(axes)
    return None


def _sliced(site: Site, index: int) -> Value:
    known = [known_contents(site.operands[k]) for k in range(1, len(site.operands)) if site.operands[k] is not None]
    count = next((len(k) for k in known if k is not None), 1)
    rank = len(site.need(0))
    if index == 3:
        return _signed(site, index, sorted(site.choices.permutation(rank)[:count]), rank)
    if index == 4:
        return site.integers(index, [site.choices.pick((1, 1, 2)) for _ in range(count)])
    if index == 1:
        return site.integers(index, [site.choices.pick((0, 1, 0, -2)) for _ in range(count)])
    ends = _ends(site)
    if ends is not None:
        return shape_value(site.draft, ends)
    return site.integers(index, [site.choices.pick(((1 << 63) - 1, 2, 1, -1)) for _ in range(count)])


def _ends(site: Site) -> Shape | None:
    """Return where a slice ends that gives the dims that the rule writes, ``None`` when that is open."""
    target, data = site.wanted(), site.need(0)
    starts, axes, steps = (known_contents(site.operands[k]) if k < len(site.operands) else None for k in (1, 3, 4))
    if target is None or starts is None or site.dtype(2) is not DType.I64:
        return None
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    found: list[Dim] = []
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if not isinstance(axis, int) or not isinstance(step, int) or not -len(data) <= axis < len(target):
            return None
        end = start + target[axis] * step
        beyond = at_least(end, data[axis]) and (end != data[axis] or site.choices.chance(50))
        found.append((1 << 63) - 1 if beyond else end)
    return tuple(found)


def _parts(site: Site, index: int) -> Value | None:
    if "num_outputs" in site.attributes:
        return None
    axis = site.axis()
    wanted = [site.demand(k) for k in range(len(site.statement.outputs))]
    dims = [w[axis] for w in wanted if w is not None and len(w) > axis]
    if len(dims) == len(wanted):
        return shape_value(site.draft, dims)
    total, count = site.draft.size(site.need(0)[axis]), len(wanted)
    if total % count == 0 and site.choices.chance(60):
        return site.integers(index, [total // count] * count)
    cuts = sorted(site.choices.below(total + 1) for _ in range(count - 1))
    return site.integers(index, [b - a for a, b in zip([0, *cuts], [*cuts, total], strict=True)])


def _repeated(site: Site, index: int) -> Value:
    data, target = site.draft.sizes(site.need(0)), site.wanted()
    if target is not None and len(target) == len(data) and 0 not in data:
        return site.integers(index, [site.draft.size(t) // d for t, d in zip(target, data, strict=True)])
    return site.integers(index, [site.choices.pick((1, 2, 1, 3)) for _ in site.need(0)])


def _padded(site: Site, index: int) -> Value:
    return site.integers(index, [site.choices.pick((0, 1, 0, 2)) for _ in range(2 * len(site.need(0)))])


def _gathered(site: Site, index: int) -> Value:
    """Make indices: data that counts elements along an axis, negative ones included."""
    written = site.statement.inputs[index]
    data = site.need(0)
    size = site.draft.size(data[site.axis()])
    assert isinstance(written, Operand)
    shape = site.draft.shape(written.type) if written.type is not None else None
    if shape is None:
        shape = data if site.op != "Gather" else site.choices.pick(((), (2,), (1,), (2, 3), (0,)))
    if size == 0 and 0 not in site.draft.sizes(shape):
        raise Undrawable("indices into nothing")
    low = -size if site.choices.chance(30) else 0
    return site.draft.leaf(written.name, site.dtype(index), shape, constant=written.constant, within=f"{low}..{size}")


def _diagonal(site: Site, index: int) -> Value:
    return site.draft.constant(np.asarray(site.choices.pick((0, 1, -1, 2))), DType.I64, "k")


def _one_axis(site: Site, index: int) -> Value:
    rank = len(site.need(0))
    axis, dtype = site.choices.below(rank), site.dtype(index)
    number = np.asarray(axis - rank if site.choices.chance(40) else axis, dtype.numpy)
    return site.draft.constant(number, dtype, "axis")


def _count(site: Site, index: int) -> Value:
    size = site.draft.size(site.need(0)[site.axis()])
    return site.integers(index, [site.choices.below(size + 1)])


def _resized(site: Site, index: int) -> Value | None:
    """Make scales or sizes, one of both, for a tensor whose batch and channels stay."""
    data = site.need(0)
    if index == 1 or (index == 2) == site.draft.resized_by_sizes:
        return None
    factors = [1 if k < 2 else site.choices.pick((2, 1, 3)) for k in range(len(data))]
    if index == 2:
        return site.draft.constant(np.asarray(factors, np.float32), DType.F32, "scales")
    sizes = [d * f for d, f in zip(data, factors, strict=True)]
    odd = [isinstance(d, int) and f > 1 and site.choices.chance(10) for d, f in zip(sizes, factors, strict=True)]
    return shape_value(site.draft, [d + 1 if o else d for d, o in zip(sizes, odd, strict=True)])


def _filled(site: Site, index: int) -> Value:
    demanded = site.demand()
    return shape_value(site.draft, site.random_shape() if demanded is None else demanded)


def _end(site: Site, index: int) -> Value:
    """Make where a range of integers ends that counts from zero: how many there are."""
    target = site.demand()
    if target is None:
        return site.draft.constant(np.asarray(site.choices.below(6)), DType.I64, "end")
    if is_static(target):
        return site.draft.constant(np.asarray(target[0]), DType.I64, "end")
    return site.draft.apply("Squeeze", [shape_value(site.draft, target)], {}, "end")


_MAKERS: dict[tuple[str, int], Made] = {
    ("Reshape", 1): _reshaped,
    ("Expand", 1): _expanded,
    ("Unsqueeze", 1): _unsqueezed,
    ("Squeeze", 1): _squeezed,
    ("Slice", 1): _sliced,
    ("Slice", 2): _sliced,
    ("Slice", 3): _sliced,
    ("Slice", 4): _sliced,
    ("Split", 1): _parts,
    ("Tile", 1): _repeated,
    ("Pad", 1): _padded,
    ("Gather", 1): _gathered,
    ("GatherElements", 1): _gathered,
    ("Trilu", 1): _diagonal,
    ("CumSum", 1): _one_axis,
    ("TopK", 1): _count,
    ("ConstantOfShape", 0): _filled,
    ("Range", 1): _end,
    ("Resize", 1): _resized,
    ("Resize", 2): _resized,
    ("Resize", 3): _resized,
}
