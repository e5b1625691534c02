"""Kinds of data movement: what counts is how many bytes move, and how long the pieces are that move together."""

from __future__ import annotations

from compiler.cost.kinds import Found, Shape, Shapes, classifies, product
from compiler.ir.schema import attribute


@classifies("Transpose")
def _transpose(s: Shapes) -> Found:
    """Tell renamings from moves of whole rows, of one axis, and everything else."""
    shape = s.of(0)
    perm = tuple(int(p) for p in attribute(s.node, "perm") or range(len(shape))[::-1])
    if len(perm) != len(shape):
        return "turn", product(shape), (product(shape), 1)
    merged, order = _merged(shape, perm)
    elements = product(shape)
    if len(order) <= 1:
        return "copy", elements, (elements, elements)
    if order[-1] == len(order) - 1:
        return "rows", elements, (elements, merged[-1])
    return "turn", elements, (elements, min(merged[order[-1]], merged[-1]))


def _merged(shape: Shape, perm: tuple[int, ...]) -> tuple[list[int], list[int]]:
    """Return the extents and the order of a transposition without dims of 1, neighbours that stay so made one."""
    kept = [p for p in perm if shape[p] != 1]
    runs: list[list[int]] = []
    position = {axis: i for i, axis in enumerate(sorted(kept))}
    for axis in kept:
        if runs and position[axis] == position[runs[-1][-1]] + 1:
            runs[-1].append(axis)
        else:
            runs.append([axis])
    ordered = sorted(runs)
    extents = [int(product(tuple(shape[a] for a in run))) for run in ordered]
    return extents, [ordered.index(run) for run in runs]


@classifies("Concat", "Split")
def _pieces(s: Shapes) -> Found:
    """Pieces of several rows are copied one by one unless the axis is the first that is not 1."""
    concat = s.node.op == "Concat"
    whole = s.out if concat else s.of(0)
    axis = int(attribute(s.node, "axis") or 0)
    if not whole:
        return "", 1.0, (1, 1)
    axis %= len(whole)
    count = sum(v is not None for v in s.node.inputs) if concat else len(s.node.outputs)
    outer = product(whole[:axis])
    return "", product(whole), (product(whole), outer * max(count, 1))


@classifies("Slice", "Pad", "Tile", "Expand", "Trilu", "ReverseSequence")
def _window(s: Shapes) -> Found:
    out = s.out
    run = _run(s.of(0), out)
    return "", product(out), (product(out), run)


def _run(source: Shape, out: Shape) -> float:
    """Return how many elements move together, by the last dims that both shapes share."""
    run, k = 1.0, 1
    while k <= min(len(source), len(out)) and source[-k] == out[-k]:
        run *= out[-k]
        k += 1
    return run * (min(source[-k], out[-k]) if k <= min(len(source), len(out)) else 1)


@classifies("Gather", "GatherElements", "GatherND", "Scatter", "ScatterElements", "ScatterND", "TensorScatter")
def _indexed(s: Shapes) -> Found:
    data, out = s.of(0), s.out
    if s.node.op != "Gather":
        return "", product(out), (product(out),)
    axis = int(attribute(s.node, "axis") or 0)
    block = product(data[axis % len(data) + 1 :]) if data else 1.0
    return "", product(out), (product(out), block)


@classifies("ReorderInput", "ReorderOutput", "DepthToSpace", "SpaceToDepth")
def _layout(s: Shapes) -> Found:
    variant = "last" if s.node.attr("channels_last", 0) else ""
    return variant, product(s.out), (product(s.out),)


@classifies("Resize", "Upsample")
def _resize(s: Shapes) -> Found:
    mode = str(s.node.attr("mode", "nearest"))
    return f"Resize:{mode}", product(s.out), (product(s.out),)


@classifies("GridSample")
def _sample(s: Shapes) -> Found:
    return str(s.node.attr("mode", "linear")), product(s.out), (product(s.out),)


@classifies("RotaryEmbedding")
def _rotary(s: Shapes) -> Found:
    shape = s.of(0)
    return f"{'Contrib' if s.node.domain else ''}RotaryEmbedding:{len(shape)}", product(shape), (product(shape),)
