"""Dims for operands whose type a rule does not write: as their operator may have them, broadcasting included.

A proposal may be wrong: inference decides, and the attempt is made again.
"""

from __future__ import annotations

from collections.abc import Callable

from compiler.ir.dims import Dim, Expr
from compiler.ir.edit import NEWEST
from compiler.ir.graph import Model, Node, Value
from compiler.ir.infer import infer_detached
from compiler.ir.infer_rules import Contradiction, Scope
from compiler.ir.syntax import Literal, Run, TypeSyntax
from compiler.ir.types import Shape
from tests.rule_harness_draft import Undrawable, static_names
from tests.rule_harness_site import BROADCASTING, Site

Proposal = Callable[[Site, int], Shape]


def propose(site: Site, index: int) -> Shape:
    """Return dims for an operand that has no type yet."""
    if site.op in BROADCASTING and not site.statement.domain:
        return _broadcastable(site, index)
    found = _PROPOSALS.get((site.op, index)) or _PROPOSALS.get((site.op, -1))
    return found(site, index) if found is not None else _like_others(site, index)


def _broadcastable(site: Site, index: int) -> Shape:
    others, target = site.known(index), site.wanted()
    if not others:
        target = target if target is not None else site.demand()
        last = len(site.pending) <= 1
        if target is None:
            return site.random_shape()
        return target if last or site.choices.chance(60) else thinner(site, target)
    try:
        whole = Scope(Model()).broadcast(*others)
    except Contradiction as error:
        raise Undrawable(str(error)) from error
    if target is not None:
        return target if target != whole or site.choices.chance(50) else thinner(site, whole)
    kind = site.choices.below(8)
    if kind <= 3:
        return whole
    if kind <= 5:
        return thinner(site, whole)
    return () if kind == 6 else _wider(site, whole)


def thinner(site: Site, shape: Shape) -> Shape:
    """Return dims that broadcast to others: some are 1, some in front are missing."""
    dims = tuple(1 if site.choices.chance(35) else d for d in shape)
    return dims[site.choices.below(len(dims) + 1) :] if dims else ()


def _wider(site: Site, shape: Shape) -> Shape:
    """Return dims that others broadcast to: ones grow, and new ones stand in front."""
    grown = tuple(site.random_dim() if d == 1 else d for d in shape)
    return (site.random_dim(), *grown) if site.choices.chance(60) else grown


def align(site: Site, index: int, written: TypeSyntax) -> None:
    """Bind open dims of a written type so that the operand broadcasts with what is there, mostly."""
    others = site.known(index)
    if site.statement.domain or site.op not in BROADCASTING or not others or written.dims is None:
        return
    other, dims = max(others, key=len), written.dims
    at = next((i for i, d in enumerate(dims) if isinstance(d, Run)), len(dims))
    behind = dims[at + 1 :]
    for back, dim in enumerate(reversed(behind), 1):
        _bind(site, dim, other[-back] if back <= len(other) else 1)
    ahead, left = dims[:at], other[: max(0, len(other) - len(behind))]
    run = dims[at] if at < len(dims) else None
    if isinstance(run, Run) and run.name in site.draft.rule.domain:
        site.draft.run(run.name)
    if isinstance(run, Run) and run.name not in site.draft.env.runs:
        length = max(0, len(left) - len(ahead)) if site.choices.chance(70) else site.choices.below(len(left) + 1)
        env = site.draft.env
        env.runs[run.name] = tuple(_aligned(site, run.name, d) for d in left[len(left) - length :]) if length else ()
    width = len(site.draft.env.runs[run.name]) if isinstance(run, Run) else 0
    for back, dim in enumerate(reversed(ahead), 1 + width):
        _bind(site, dim, left[-back] if back <= len(left) else 1)


def _bind(site: Site, dim: Dim | Run, other: Dim) -> None:
    if isinstance(dim, Expr) and dim.is_symbol and dim.symbols()[0] not in site.draft.env.dims:
        name = dim.symbols()[0]
        if name not in site.draft.rule.domain and not site.choices.chance(10):
            site.draft.env.dims[name] = _aligned(site, name, other)


def _aligned(site: Site, name: str, other: Dim) -> Dim:
    if site.choices.chance(15):
        return 1
    return site.draft.size(other) if name in static_names(site.draft.pattern) else other


def _like_others(site: Site, index: int) -> Shape:
    formal = site.formals.input(index) if site.formals is not None else None
    for k in range(len(site.operands)):
        other = site.formals.input(k) if site.formals is not None else None
        shape = site.shape(k)
        if k == index or shape is None or formal is None or other is None:
            continue
        if formal.types == other.types:
            return shape
    demanded = site.demand()
    if demanded is not None:
        return demanded
    return site.random_shape(least_rank(site))


def least_rank(site: Site) -> int:
    """Return the least rank that literal axes allow the first operand."""
    axes = [a.value for n, a in site.attributes.items() if n in ("axis", "axes") and a.kind in ("int", "ints")]
    numbers = [n for a in axes for n in (a if isinstance(a, tuple) else (a,))]
    for k, written in enumerate(site.statement.inputs):
        formal = site.formals.input(k) if site.formals is not None else None
        if isinstance(written, Literal) and formal is not None and formal.name == "axes":
            numbers += [int(str(s)) for s in written.scalars]
    return max((n + 1 if n >= 0 else -n for n in numbers), default=1 if "axis" in site.attributes else 0)


def _transposed(site: Site, index: int) -> Shape:
    perm, demanded = site.plain("perm"), site.demand()
    if perm is None:
        return site.random_shape() if demanded is None else demanded[::-1]
    if demanded is None or len(demanded) != len(perm):
        return tuple(site.random_dim() for _ in perm)
    found: list[Dim] = [1] * len(perm)
    for k, axis in enumerate(perm):
        found[axis] = demanded[k]
    return tuple(found)


def _matmul(site: Site, index: int) -> Shape:
    other, target = site.shape(1 - index), site.wanted()
    if other is None:
        target = target if target is not None else site.demand()
        shape = site.random_shape(2) if target is None or len(target) < 2 else target
        return (*shape[:-1], site.random_dim()) if index == 0 else (*shape[:-2], site.random_dim(), shape[-1])
    if not other:
        raise Undrawable("MatMul of a scalar")
    shared = other[-1] if index == 1 or len(other) == 1 else other[-2]
    if site.choices.chance(10) and target is None:
        return (shared,)
    ends: Shape = target[-2:] if target is not None and len(target) >= 2 else (site.random_dim(), site.random_dim())
    batch = site.choices.pick(((), other[:-2], (1, *other[:-2])[-2:])) if target is None else target[:-2]
    if target is not None and index == 1 and site.choices.chance(50):
        batch = ()
    return (*batch, ends[0], shared) if index == 0 else (*batch, shared, ends[1])


def _gemm(site: Site, index: int) -> Shape:
    other, target = site.shape(1 - index), site.demand()
    flip = bool(site.plain("transA" if index == 0 else "transB"))
    other_flip = bool(site.plain("transB" if index == 0 else "transA"))
    outer = (target[index] if target is not None and len(target) == 2 else None) or site.random_dim()
    if other is None:
        inner = site.random_dim()
    elif len(other) != 2:
        raise Undrawable("Gemm of a rank other than 2")
    else:
        inner = other[(0 if other_flip else 1) if index == 1 else (1 if other_flip else 0)]
    pair = (outer, inner) if index == 0 else (inner, outer)
    return pair[::-1] if flip else pair


def _gemm_bias(site: Site, index: int) -> Shape:
    left, right = site.need(0), site.need(1)
    product = (left[1 if site.plain("transA") else 0], right[0 if site.plain("transB") else 1])
    return product if site.choices.chance(30) else thinner(site, product)


def _concatenated(site: Site, index: int) -> Shape:
    others = site.known(index)
    if not others:
        return site.random_shape(max(1, least_rank(site)))
    axis, target = site.axis(rank=len(others[0])), site.wanted()
    if target is not None and len(site.pending) == 1 and all(len(s) == len(target) for s in others):
        rest = site.draft.size(target[axis]) - sum(site.draft.size(s[axis]) for s in others)
        return (*others[0][:axis], max(0, rest), *others[0][axis + 1 :])
    return (*others[0][:axis], site.random_dim(), *others[0][axis + 1 :])


def _indices(site: Site, index: int) -> Shape:
    return site.random_shape() if site.choices.chance(40) else site.choices.pick(((), (2,), (1,), (2, 2)))


def _same_as_data(site: Site, index: int) -> Shape:
    return site.need(0)


def _normalized(site: Site, index: int) -> Shape:
    data = site.need(0)
    return data[site.axis() :]


def _channels(site: Site, index: int) -> Shape:
    data = site.need(0)
    return (data[1] if len(data) > 1 else 1,)


def _grouped_channels(site: Site, index: int) -> Shape:
    data = site.need(0)
    return data[-1:] if site.plain("channels_last") != 0 else data[1:2]


def _convolved(site: Site, index: int) -> Shape:
    space = [site.choices.pick((5, 4, 6)) for _ in range(1 + site.choices.below(2))]
    return (site.random_dim(), site.random_dim(), *space)


def _kernel(site: Site, index: int) -> Shape:
    data, group = site.need(0), site.plain("group") or 1
    inner = site.draft.size(data[1]) // group
    window = site.plain("kernel_shape") or tuple(site.choices.pick((1, 2, 3)) for _ in data[2:])
    outer = group * site.choices.pick((1, 2, 3))
    return (outer, inner, *window) if site.op == "Conv" else (site.draft.size(data[1]), outer // group, *window)


def _filters(site: Site, index: int) -> Shape:
    weight = site.need(1)
    return (weight[0],) if site.op == "Conv" else (weight[1] * (site.plain("group") or 1),)


def _convolution(site: Site, index: int) -> Shape:
    """Return the dims that a fused convolution has, to which its last operand is added."""
    out = Value("sum")
    window = {name: attr for name, attr in site.attributes.items() if not name.startswith("activation")}
    infer_detached(Node("Conv", tuple(site.operands[:2]), (out,), window, version=NEWEST), site.draft.model)
    if out.shape is None:
        raise Undrawable("the convolution has no known dims")
    return tuple(d if isinstance(d, int) or d.is_symbol else site.draft.size(d) for d in out.shape)


def _attended(site: Site, index: int) -> Shape:
    """Return dims of a query, keys, values, a mask, or a cache, in the layout of four dims or of three."""
    if index == 0:
        return site.demand() or tuple(site.random_dim() for _ in range(4))
    query, keys = site.need(0), site.shape(1)
    if len(query) < 3 or (keys is not None and len(keys) != len(query)):
        raise Undrawable("attention has three dims or four")
    if index in (1, 2):
        length = keys[-2] if keys is not None else site.random_dim()
        width = query[-1] if index == 1 or len(query) == 3 or site.choices.chance(60) else site.random_dim()
        return (*query[:-2], length, width)
    past = site.shape(4)
    if index == 3:
        behind = past[2] if past is not None and len(past) == 4 else 0
        mask = (query[0], _heads(site, 0), query[-2], (keys or query)[-2] + behind)
        return mask[site.choices.pick((2, 0, 1, 2)) :]
    row = site.need(1 if index == 4 else 2)
    width = row[-1] if len(row) == 4 else site.draft.size(row[-1]) // max(1, site.draft.size(_heads(site, 1)))
    return (query[0], _heads(site, 1), past[2] if past is not None else site.random_dim(), width)


def _heads(site: Site, index: int) -> Dim:
    """Return the number of heads of the query (0) or of the keys (1)."""
    shape = site.need(index)
    return shape[1] if len(shape) == 4 else site.plain("kv_num_heads" if index else "q_num_heads") or 1


def _image(site: Site, index: int) -> Shape:
    return site.demand() or site.random_shape(3)


def _scalar(site: Site, index: int) -> Shape:
    return ()


def _last_dim(site: Site, index: int) -> Shape:
    return site.need(0)[-1:]


_PROPOSALS: dict[tuple[str, int], Proposal] = {
    ("Transpose", 0): _transposed,
    ("MatMul", 0): _matmul,
    ("MatMul", 1): _matmul,
    ("FusedMatMul", 0): _matmul,
    ("FusedMatMul", 1): _matmul,
    ("Gemm", 0): _gemm,
    ("Gemm", 1): _gemm,
    ("Gemm", 2): _gemm_bias,
    ("Concat", -1): _concatenated,
    ("Gather", 1): _indices,
    ("GatherElements", 1): _same_as_data,
    ("ScatterElements", 1): _same_as_data,
    ("ScatterElements", 2): _same_as_data,
    ("LayerNormalization", 1): _normalized,
    ("LayerNormalization", 2): _normalized,
    ("RMSNormalization", 1): _normalized,
    ("SimplifiedLayerNormalization", 1): _normalized,
    ("SkipLayerNormalization", 1): _same_as_data,
    ("SkipLayerNormalization", 2): _last_dim,
    ("SkipLayerNormalization", 3): _last_dim,
    ("SkipLayerNormalization", 4): _last_dim,
    ("SkipSimplifiedLayerNormalization", 1): _same_as_data,
    ("SkipSimplifiedLayerNormalization", 2): _last_dim,
    ("SkipSimplifiedLayerNormalization", 3): _last_dim,
    ("BiasGelu", 1): _last_dim,
    ("FastGelu", 1): _last_dim,
    ("BatchNormalization", 1): _channels,
    ("BatchNormalization", 2): _channels,
    ("BatchNormalization", 3): _channels,
    ("BatchNormalization", 4): _channels,
    ("InstanceNormalization", 1): _channels,
    ("InstanceNormalization", 2): _channels,
    ("GroupNorm", 1): _grouped_channels,
    ("GroupNorm", 2): _grouped_channels,
    ("SkipGroupNorm", 1): _grouped_channels,
    ("SkipGroupNorm", 2): _grouped_channels,
    ("SkipGroupNorm", 4): _grouped_channels,
    ("GroupNormalization", 1): _channels,
    ("GroupNormalization", 2): _channels,
    ("Conv", 0): _convolved,
    ("Conv", 1): _kernel,
    ("Conv", 2): _filters,
    ("ConvTranspose", 0): _convolved,
    ("ConvTranspose", 1): _kernel,
    ("ConvTranspose", 2): _filters,
    ("FusedConv", 3): _convolution,
    ("Attention", 0): _attended,
    ("Attention", 1): _attended,
    ("Attention", 2): _attended,
    ("Attention", 3): _attended,
    ("Attention", 4): _attended,
    ("Attention", 5): _attended,
    ("InstanceNormalization", 0): _image,
    ("GroupNormalization", 0): _image,
    ("Resize", 0): _image,
    ("Clip", 1): _scalar,
    ("Clip", 2): _scalar,
    ("Pad", 2): _scalar,
    ("Trilu", 1): _scalar,
    ("DequantizeLinear", 1): _scalar,
    ("QuantizeLinear", 1): _scalar,
    ("Dropout", 1): _scalar,
    ("Dropout", 2): _scalar,
}
"""Operator and operand (-1: any) → its proposal."""
