"""What the passes write as products computes what the operators compute that they replace."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from compiler.backend.emit import to_proto
from compiler.ir.graph import Model
from passes.lower_resize import matrix
from passes.raise_einsum import RaiseEinsum, read_equation
from tests.golden_passes import apply, read
from tests.isolation import Child

SIZES = dict(zip("bhsdkijwnmaclt", (2, 3, 4, 5, 6, 4, 7, 3, 2, 2, 3, 5, 4, 3), strict=True))
"""Letter → dim."""

EQUATIONS = (
    "bsd,dk->bsk", "bhid,bhjd->bhij", "bhij,bhjd->bhid", "bsd,dhk->bshk", "bshk,hkd->bsd", "bshd,bthd->bhst", "i,j->ij",
    "bi,bj->bij", "bsd,d->bsd", "bsd,d->bs", "ij->ji", "ij->j", "ij->", "ji", "i,i->", "i,i", "ij,jk", "bij,bjk",
    "bhs,bshd->bhsd", "bsd,bk->bsdk", "bsd,bsd->bs", "bsd,bs->bd", "bn,anm->bam", "ij,kl->ik", "ij,jk->i",
    " i j , j k -> k i", "dk,bsd->bsk", "lbd,hdk->blhk", "bij,bi->", "k,bk->b", "kd,k->d",
)  # fmt: skip
"""Equations that mean a product, a sum or a transpose."""


def run(oracle: Child, model: Model, inputs: dict[str, Any]) -> list[Any]:
    """Run a model on ONNX Runtime as users do, with all of its own optimizations."""
    found: list[Any] = oracle.call("tests.hostile_runner:run", to_proto(model).SerializeToString(), inputs, True)
    return found


def einsum(equation: str, shapes: list[tuple[int, ...]], result: tuple[int, ...]) -> Model:
    """Return a model of one Einsum."""

    def text(shape: tuple[int, ...]) -> str:
        return f"f32[{','.join(map(str, shape))}]"

    inputs = ", ".join(f"%x{i}: {text(s)}" for i, s in enumerate(shapes))
    operands = ", ".join(f"%x{i}" for i in range(len(shapes)))
    return read(
        f"// ampc 1, opset 20\ngraph @main({inputs}) -> (%y: {text(result)}) {{\n"
        f'  %y: {text(result)} = Einsum({operands}) {{equation = "{equation}"}}\n  return %y\n}}\n'
    )


@pytest.mark.parametrize("equation", EQUATIONS)
def test_products_of_letters_are_what_the_equation_says(equation: str, oracle: Child) -> None:
    """An Einsum of one or two operands becomes other operators, which give what NumPy makes of the equation."""
    shapes = [tuple(SIZES[c] for c in t.strip()) for t in equation.replace(" ", "").split("->")[0].split(",")]
    random = np.random.default_rng(0)
    arrays = [random.standard_normal(shape).astype(np.float32) for shape in shapes]
    expected = np.einsum(equation.replace(" ", ""), *arrays)
    model = einsum(equation, shapes, expected.shape)
    assert apply(RaiseEinsum(), model)
    assert not any(n.is_op("Einsum") for n in model.graph.nodes())
    (found,) = run(oracle, model, {f"x{i}": array for i, array in enumerate(arrays)})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("equation", "ranks", "terms", "out"),
    [
        ("...ij,...jk->...ik", (4, 3), ["01ij", "1jk"], "01ik"),
        ("ba", (2,), ["ba"], "ab"),
        ("i...,i", (3, 1), ["i01", "i"], "01"),
        ("ij,jk", (1, 2), [], ""),
    ],
)
def test_equations_are_read_with_ellipsis_and_without_arrow(
    equation: str, ranks: tuple[int, ...], terms: list[str], out: str
) -> None:
    """An ellipsis stands for the leading dims, and a missing result for the letters that occur once, in order."""
    assert read_equation(equation, ranks) == (terms, out)


COORDINATES = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
RESIZED = ((8, 16, 2.0), (8, 20, 2.5), (8, 21, 2.7), (37, 15, 0.43), (5, 1, 0.2), (1, 4, 4.0), (60, 155, 155 / 60))


@pytest.mark.parametrize(("mode", "coordinates"), list(product(("cubic", "linear"), COORDINATES)))
def test_weights_of_resizing_are_those_of_the_runtime(mode: str, coordinates: str, oracle: Child) -> None:
    """Two products with the weights along the axes give what ``Resize`` gives, in all coordinates."""
    random = np.random.default_rng(0)
    for (size, resized, scale), exclude in product(RESIZED, (0, 1) if mode == "cubic" else (0,)):
        image = random.standard_normal((1, 1, size, size)).astype(np.float32)
        model = read(
            f"// ampc 1, opset 20\ngraph @main(%x: f32[1,1,{size},{size}]) -> (%y: f32[1,1,{resized},{resized}]) {{\n"
            f"  const %s: f32[4] = [1.0, 1.0, {scale}, {scale}]\n"
            f"  %y: f32[1,1,{resized},{resized}] = Resize(%x, _, %s) {{coordinate_transformation_mode = "
            f'"{coordinates}", cubic_coeff_a = -0.5, exclude_outside = {exclude}, mode = "{mode}"}}\n'
            "  return %y\n}\n"
        )
        (expected,) = run(oracle, model, {"x": image})
        weights = matrix(
            size, resized, scale, mode=mode, coordinates=coordinates, a=-0.5, exclude=bool(exclude)
        ).astype(np.float32)
        np.testing.assert_allclose(weights @ image @ weights.T, expected, rtol=1e-4, atol=3e-5)
