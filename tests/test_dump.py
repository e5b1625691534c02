"""Dumps: what is shown around a pass is what the pass saw and left, and what is written compiles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.dumping import DumpOptions, dump_model, load
from compiler.errors import InputError, UnknownNameError
from compiler.ir.diff import structurally_equal
from compiler.ir.parser import parse_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A model with a node that does nothing, a dead one, and a weight too large for the text."""
    weight = np.arange(24, dtype=np.float32).reshape(6, 4)
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["i"], name="first"),
            helper.make_node("MatMul", ["i", "w"], ["y"], name="second"),
            helper.make_node("Exp", ["x"], ["unused"], name="third"),
        ],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    file = tmp_path / "small.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def only(texts: dict[str, str]) -> str:
    """Return the only text."""
    ((_, text),) = texts.items()
    return text


def test_as_loaded(path: Path) -> None:
    """Without a pass, the dump is the model as loaded, with types; it parses back to the same model."""
    text = only(dump_model(path, DumpOptions(loc=True)))
    assert "%y: f32[N,4] = MatMul(%i, %w)" in text
    assert structurally_equal(parse_model(text), load(path)) is None


def test_origins_are_shown_when_asked_for(path: Path) -> None:
    """Origins stand in the text with ``loc`` and not otherwise."""
    assert 'loc("second")' in only(dump_model(path, DumpOptions(loc=True)))
    assert "loc(" not in only(dump_model(path))


def test_facts_are_comments(path: Path) -> None:
    """What analysis knows is written as comments: the text still parses to the same model."""
    text = only(dump_model(path, DumpOptions(facts=True, loc=True)))
    assert "// used by MatMul" in text
    assert structurally_equal(parse_model(text), load(path)) is None


def test_nodes_are_selected(path: Path) -> None:
    """A pattern selects statements by operator, and leaves the others out."""
    text = only(dump_model(path, DumpOptions(nodes="MatMul")))
    assert "MatMul(" in text
    assert "const %w" not in text


def test_around_a_pass(path: Path) -> None:
    """Around a pass there are two texts: with what it removed, and without."""
    before, after = dump_model(path, DumpOptions(around="dead-code")).values()
    assert "Exp(%x)" in before
    assert "Exp(%x)" not in after


def test_before_and_after_are_parts_of_around(path: Path) -> None:
    """Asking for one side gives the same text as asking for both."""
    both = dump_model(path, DumpOptions(around="dead-code"))
    assert dump_model(path, DumpOptions(before="dead-code")) == dict([*both.items()][:1])
    assert dump_model(path, DumpOptions(after="dead-code")) == dict([*both.items()][1:])


def test_two_passes_at_once(path: Path) -> None:
    """Before one pass and after another are two texts of one run."""
    texts = dump_model(path, DumpOptions(before="no-ops", after="dead-code"))
    assert list(texts) == ["before no-ops", "after dead-code"]
    assert "Identity" in texts["before no-ops"]
    assert "Identity" not in texts["after dead-code"]


def test_changed_lines_only(path: Path) -> None:
    """The difference holds the lines that the pass changed, and no others."""
    text = only(dump_model(path, DumpOptions(around="no-ops", changed=True)))
    lines = [line for line in text.splitlines() if not line.startswith(("---", "+++", "@@"))]
    assert lines == [
        "-  %i: f32[N,6] = Identity(%x)",
        "-  %y: f32[N,4] = MatMul(%i, %w)",
        "+  %y: f32[N,4] = MatMul(%x, %w)",
    ]


def test_a_pass_without_effect_says_so(path: Path) -> None:
    """A pass that ran and changed nothing has equal texts and a title that tells."""
    texts = dump_model(path, DumpOptions(around="fold-pad"))
    assert list(texts) == ["before fold-pad", "after fold-pad (it changed nothing)"]
    assert len(set(texts.values())) == 1
    assert only(dump_model(path, DumpOptions(around="fold-pad", changed=True))) == ""


def test_pipeline_and_disabled_passes_count(path: Path) -> None:
    """The pipeline that is given runs, without what is disabled."""
    options = DumpOptions(after="dead-code", passes="no-ops, dead-code", disable=("no-ops",))
    assert "Identity" in only(dump_model(path, options))


def test_progress_is_told(path: Path) -> None:
    """Whoever listens hears the passes that run, in order."""
    heard: list[str] = []
    dump_model(path, DumpOptions(after="dead-code", passes="no-ops, dead-code"), progress=heard.append)
    assert heard == ["no-ops", "dead-code"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (DumpOptions(around="fold", disable=("fold",)), "never ran"),
        (DumpOptions(around="fold", passes="dead-code"), "not in the pipeline"),
        (DumpOptions(changed=True), "--changed"),
        (DumpOptions(before="fold", after="cancel", changed=True), "--changed"),
        (DumpOptions(output=Path("x.txt")), "must end in .ir"),
        (DumpOptions(output=Path("x.ir"), nodes="*"), "a part cannot be compiled"),
        (DumpOptions(output=Path("x.ir"), around="fold", changed=True), "a part cannot be compiled"),
        (DumpOptions(output=Path("x.ir"), before="fold", after="cancel"), "around one pass"),
    ],
)
def test_what_cannot_be_shown_is_an_error(path: Path, options: DumpOptions, words: str) -> None:
    """A pass that does not run, and options that do not go together, are the caller's errors."""
    with pytest.raises(InputError, match=words):
        dump_model(path, options)


def test_a_wrong_name_gets_a_suggestion(path: Path) -> None:
    """A pass that does not exist is an error that names the nearest one."""
    with pytest.raises(UnknownNameError) as caught:
        dump_model(path, DumpOptions(before="ded-code"))
    assert "dead-code" in caught.value.hint


def test_written_text_is_the_model(path: Path, tmp_path: Path) -> None:
    """Text that was written, with its side file, loads as the same model, weights included."""
    out = tmp_path / "out.ir"
    assert dump_model(path, DumpOptions(output=out)) == {"small.onnx as loaded": str(out)}
    assert structurally_equal(load(out), load(path)) is None
    assert out.with_name("out.ir.data").exists()


def test_around_writes_two_files(path: Path, tmp_path: Path) -> None:
    """Around a pass, one file is what it saw, the other what it left."""
    out = tmp_path / "out.ir"
    texts = dump_model(path, DumpOptions(output=out, around="dead-code", passes="dead-code"))
    assert list(texts.values()) == [str(tmp_path / "out.before.ir"), str(tmp_path / "out.after.ir")]
    assert structurally_equal(load(tmp_path / "out.before.ir"), load(path)) is None
    assert load(tmp_path / "out.after.ir").graph.node_count == 2


@pytest.mark.parametrize(("side", "nodes"), [("before", 3), ("after", 2)])
def test_one_side_is_written_as_named(path: Path, tmp_path: Path, side: str, nodes: int) -> None:
    """One side of a pass goes to the very file that was named."""
    out = tmp_path / "out.ir"
    options = DumpOptions(output=out, passes="dead-code", **{side: "dead-code"})  # type: ignore[arg-type]  # names of fields
    assert only(dump_model(path, options)) == str(out)
    assert load(out).graph.node_count == nodes


def test_the_source_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    """Text is never written over the text that it was read from."""
    out = tmp_path / "out.ir"
    dump_model(path, DumpOptions(output=out))
    with pytest.raises(InputError, match="the model itself"):
        dump_model(out, DumpOptions(output=out))
