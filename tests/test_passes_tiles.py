"""Convolutions are computed in tiles where that is less work, and nowhere else."""

from __future__ import annotations

import pytest

from compiler.calibrating import Drawn
from compiler.cost.calibration import shipped
from compiler.cost.model import CostModel
from compiler.ir import edit
from compiler.ir.infer import infer
from compiler.ir.parser import parse_model
from compiler.ir.verify import verify
from compiler.rewrite import Context
from compiler.settings import load_target
from passes.lower_tiles import ConvolveInTiles, ConvolveInTilesWithoutBias
from passes.stages import Lower

RULES = (ConvolveInTiles(), ConvolveInTilesWithoutBias())
REFUSED = {
    (16, 16, 28): "16 of 16 channels: 0.31 times fewer operations",
    (256, 256, 12): "12 x 12 pixels are 9 tiles",
    (128, 128, 13): "128 of 128 channels: 1.06 times fewer operations",
}
"""Channels of the image, of the result, and pixels → why not."""


def lowered(inputs: int, outputs: int, pixels: int) -> tuple[list[str], Context]:
    """Return the operators of a convolution after lowering by cost, and what the pass says."""
    weights = f"const %w: f32[{outputs},{inputs},3,3] = #00000001\n"
    image, result = (f"f32[1,{n},{pixels},{pixels}]" for n in (inputs, outputs))
    body = f"%y: {result} = Conv(%x, %w) {{pads = [1, 1, 1, 1]}}\n"
    text = f"// ampc 1, opset 17\ngraph @main(%x: {image}) -> (%y: {result}) {{\n{weights}{body}return %y\n}}\n"
    model = parse_model(text, side=Drawn())
    infer(model.graph)
    target = load_target("cpu")
    costs = CostModel(target, {}, calibration=shipped("CPUExecutionProvider"))
    ctx = Context(target=target, rule_set=RULES, cost=costs)
    edit.begin(model)
    Lower().run(model.graph, ctx)
    edit.commit(model)
    verify(model)
    return [n.op for n in model.graph.nodes()], ctx


@pytest.mark.parametrize("shape", REFUSED)
def test_convolutions_of_few_channels_or_tiles_stay(shape: tuple[int, int, int]) -> None:
    """Moving pixels costs more than the products that are saved, whatever the cost model expects."""
    operators, ctx = lowered(*shape)
    assert operators == ["Conv"]
    assert list(ctx.rules["ConvolveInTilesWithoutBias"].refusals) == [REFUSED[shape]]


@pytest.mark.parametrize("shape", [(128, 128, 16), (256, 256, 28)])
def test_convolutions_of_many_channels_are_done_in_tiles(shape: tuple[int, int, int]) -> None:
    """The products of all pairs of channels are the work: a quarter of them pays for the rest."""
    assert "DepthToSpace" in lowered(*shape)[0]
