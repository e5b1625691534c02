"""The text form: what is printed is read back as it was, and what cannot be read is an error with a place."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compiler.errors import InputError, ParseError
from compiler.ir import edit, printer
from compiler.ir.constant import Constant
from compiler.ir.cursor import DEPTH
from compiler.ir.diff import structurally_equal
from compiler.ir.dims import symbol
from compiler.ir.dtype import DType
from compiler.ir.graph import Attr, Graph, Model, Node, Value
from compiler.ir.parser import load_text, parse_dim, parse_model, parse_statement, parse_statements, parse_type
from compiler.ir.printer import print_graph, print_model, save_text, side_path
from compiler.ir.sidefile import Abbreviations
from compiler.ir.spelling import contents_text, float_text, quote, read_float, unquote
from compiler.ir.syntax import Literal, Operand, Run
from compiler.ir.types import TensorType
from compiler.ir.verify import verify
from tests.graphs import TYPES, constants, models, odd_models

CANONICAL = """\
// ampc 1, ir 10, opset 20, "a b" 3, com.microsoft 1
meta "author" = "line\\nline"
function(0x0a03666f6f)
graph @ffn(%x: f32[N,128,768], %bias: f32[2] = [1.0, 0.1]) -> (%y: f32[N,128,3072], %n: i32[2,(N // 2) + 1]) {
  const %w: f32[768,3072] = #1f3a9c0e  // 9.0 MiB
  const %odd: f32[] = 0x7fc00001
  const %texts: str[2] = ["a\\"", b"\\xff"]
  const %q: i4[2,2] = [[1, -8], [7, 0]]
  const %none: i64[0,2] = []
  const %z: c64[1] = [(1.0, -inf)]
  %h: f32[N,128,3072], _ = MatMul(%x, %w) loc("ffn/fc1/MatMul")
  %"z z": f32[N,128,3072] = Add@7(%h, _, %odd) {a = 1, b = 1.0, c = [1, 2], d = [0.1], e = ints(), f = "x", \
g = b"\\xff", h = const f32[2] [1.0, nan], i = type(0x0a02), j = -1, k = strings(), l = ["q"], m = -inf, \
n = 1e+20, o = graphs(), "p q" = 1, q = sparses(sparse(0x))} name("n") loc(RaiseGelu < "a-b": "act/Pow", "act/Mul")
  %y: f32[N,128,3072] = com.microsoft::FastGelu(%"z z") name("only a name")
  %n: i32[2,(N // 2) + 1] = If(%odd) {
    else_branch = graph @e() -> (%ee: ?) {
      %ee: ? = Relu(%x)
      return %ee
    },
    k = 1,
    list = graphs(
      graph @""() -> () {
        return
      },
      graph @b() -> (%x: f32[N,128,768]) {
        return %x
      }
    ),
    then_branch = graph @"t t"() -> (%tt: seq<map<i64,f32[*]>>) {
      %tt: seq<map<i64,f32[*]>> = Relu(%x)
      return %tt
    }
  } loc("a")
  () = Sink(%n)
  return %y, %n
}
"""


def equal(a: Model, b: Model) -> None:
    """Fail with the first difference and both texts."""
    difference = structurally_equal(a, b)
    assert difference is None, f"{difference}\n{print_model(a)}\n{print_model(b)}"


# Round trips -------------------------------------------------------------------------------------


def test_canonical_text_prints_as_itself() -> None:
    """``print(parse(t))`` is ``t`` for a canonical text that shows every construct."""
    assert print_model(parse_model(CANONICAL)) == CANONICAL


@given(odd_models())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_parsing_undoes_printing(model: Model) -> None:
    """``parse(print(m))`` is ``m``, whatever names, types and attributes it has, and prints as the same text."""
    text = print_model(model)
    again = parse_model(text)
    equal(model, again)
    verify(again)
    assert print_model(again) == text


@given(models())
def test_annotated_text_parses_to_the_same_model(model: Model) -> None:
    """What analysis adds to a dump is a comment."""
    equal(model, parse_model(print_model(model, facts=True)))


@given(models())
def test_a_text_without_origins_differs_in_origins_only(model: Model) -> None:
    """``loc=False`` leaves out node names and origins and nothing else."""
    again = parse_model(print_model(model, loc=False))
    assert structurally_equal(model, again, loc=False) is None


@given(constants())
def test_elements_are_exact(constant: Constant) -> None:
    """The elements of a constant in the text are its bits, for every element type."""
    model = _with_constant(constant)
    text = f"graph @g() -> () {{\n  const %c: {model.graph.inputs[0].type} = {contents_text(constant)}\n  return\n}}\n"
    again = next(iter(parse_model("// ampc 1\n" + text).graph.constants))
    assert again.constant is not None
    assert again.constant.digest() == constant.digest(), text


def _with_constant(constant: Constant) -> Model:
    model = Model()
    model.graph = edit.new_graph("g", model)
    edit.add_input(model.graph, Value("x", TensorType(constant.dtype, constant.shape)))
    return model


@given(st.floats(width=32))
def test_floats_are_written_shortly(number: float) -> None:
    """A float32 takes at most nine digits, unless it is a NaN of its own."""
    text = float_text(np.float32(number), DType.F32)
    assert len(text) <= len("-1.23456789e-38")
    assert math.isnan(number) or float(read_float(text, DType.F32)) == number


@given(st.text(st.characters(codec="utf-8")))
def test_unquote_undoes_quote(text: str) -> None:
    """A quoted text stands on one line and is read back."""
    assert unquote(quote(text)) == text
    assert len(quote(text).splitlines()) == 1


@given(TYPES)
def test_types_are_read_back(type_: object) -> None:
    """The text of a type is that type."""
    assert parse_type(str(type_)) == type_


# Meaning of the text -----------------------------------------------------------------------------


def body(*lines: str, header: str = "// ampc 1, opset 20, com.microsoft 1") -> str:
    """Return a text whose graph has an input ``%x`` and these lines."""
    return "\n".join([header, "graph @g(%x: f32[N,2]) -> () {", *lines, "return", "}"])


def only(text: str) -> Node:
    """Return the only node of a text."""
    (node,) = parse_model(text).graph.nodes()
    return node


def test_comments_mean_nothing() -> None:
    """A text without its comments, the header excepted, is the same model."""
    text = body("// before", "%y: f32[N,2] = Relu(%x) // after", '%z: f32[N,2] = Foo(%x) {a = "// text"}//')
    bare = body("%y: f32[N,2] = Relu(%x)", '%z: f32[N,2] = Foo(%x) {a = "// text"}')
    equal(parse_model(text), parse_model(bare))


def test_slashes_in_brackets_divide() -> None:
    """``//`` and ``%`` are operators between brackets, and start comments and names elsewhere."""
    node = only(body("%y: f32[N // 2,(N%2)] = Foo(%x) // [ comment"))
    assert node.output.type == TensorType(DType.F32, (symbol("N") // 2, symbol("N") % 2))


@pytest.mark.parametrize(
    ("written", "attr"),
    [
        ("1", Attr("int", 1)),
        ("-0x10", Attr("int", -16)),
        ("1.0", Attr("float", 1.0)),
        ("1e2", Attr("float", 100.0)),
        ("inf", Attr("float", math.inf)),
        ("[1, 2]", Attr("ints", (1, 2))),
        ("[1.0]", Attr("floats", (1.0,))),
        ('["true", b"a"]', Attr("strings", ("true", b"a"))),
        ("floats()", Attr("floats", ())),
        ("ints(3)", Attr("ints", (3,))),
        ('"true"', Attr("string", "true")),
        ('b"\\x00a"', Attr("string", b"\x00a")),
    ],
)
def test_the_form_of_an_attribute_is_its_kind(written: str, attr: Attr) -> None:
    """Every kind of attribute has a form of its own, empty lists and floats that look like ints included."""
    assert only(body(f"%y: ? = Foo(%x) {{a = {written}}}")).attributes == {"a": attr}


def test_versions_default_to_the_header() -> None:
    """A node has the newest version of the default domain, the header's version of another, or the one it says."""
    lines = ("() = A(%x)", "() = com.microsoft::B(%x)", "() = other::C(%x)", "() = D@7(%x)")
    assert [n.version for n in parse_model(body(*lines)).graph.nodes()] == [edit.NEWEST, 1, 1, 7]


def test_the_text_form_knows_the_newest_operators() -> None:
    """Who raises ``NEWEST`` adds a version of the text form, so that old texts keep their meaning."""
    assert printer.FORMS[printer.FORMAT] == edit.NEWEST


def test_a_lone_origin_is_the_node_name() -> None:
    """The name of a node is that of its origin unless the text says otherwise."""
    lines = ('() = A() loc("n")', '() = A() name("") loc("n")', '() = A() name("m")', '() = A() loc(R: "n")')
    assert [n.name for n in parse_model(body(*lines)).graph.nodes()] == ["n", "", "m", ""]


def test_made_up_dims_stay_fresh() -> None:
    """A dim that is made up after parsing differs from those of the text."""
    model = parse_model(body("%y: f32[?7] = Foo(%x)"))
    assert str(model.fresh_dim()) == "?8"


def test_rules_share_the_grammar() -> None:
    """Statements of rules have typed and literal operands, runs of dims and variables."""
    first, second = parse_statements("%h: T[*S,M] = MatMul(%a: T[*S,K], const %b: T[K,M]) {p = $p}\n%y = Mul(%h, 0.5)")
    left, right = first.inputs
    assert isinstance(left, Operand)
    assert left.type is not None
    assert (left.type.head, left.type.dims) == ("T", (Run("S"), symbol("K")))
    assert isinstance(right, Operand)
    assert right.constant
    assert (first.attributes["p"].kind, first.attributes["p"].value) == ("variable", "p")
    assert isinstance(second.inputs[1], Literal)
    assert parse_statement("%y = Relu(%x)").op == "Relu"


def test_patterns_show_matches_with_context() -> None:
    """``nodes`` shows the matching statements and one line around each, nested ones too."""
    shown = print_model(parse_model(CANONICAL), nodes="*ee")
    assert "%ee: ? = Relu(%x)" in shown
    assert "return %ee" in shown
    assert "FastGelu" not in shown


def test_facts_are_shown() -> None:
    """``facts`` tells the contents that analysis found, the readers, and what a graph returns."""
    model = parse_model(body("%s: i64[2] = Shape(%x)", "%y: i64[2] = Neg(%s)"))
    node = next(model.graph.nodes())
    node.output.contents = (symbol("N"), 2)
    assert "contents [N, 2], used by Neg" in print_model(model, facts=True)
    assert "unused" in print_graph(model.graph, facts=True)


# Errors ------------------------------------------------------------------------------------------

WRONG = {
    "": "the text has no header",
    "graph @g() -> () { return }": "the text has no header",
    "// ampc 99": "the text is of format 99",
    "// ampc 1, opset 20, opset 21\n": "opset stands here twice",
    "// ampc 1\n": "expected 'graph', found the end",
    "// ampc 1\ngraph @g() -> () { return } x": "expected the end",
    body("%y: f32[] = Foo(%zz)"): "%zz is not defined",
    body("%x: f32[] = Foo()"): "'x' is defined twice",
    body("%y: f23[] = Foo()"): "'f23' is no element type",
    body("%y: f32 = Foo()"): "the type f32 has no dims",
    body("%y: f32[] = Foo() {a = 1, a = 2}"): "attribute a is set twice",
    body("%y: f32[] = Foo() {a = []}"): "an empty list does not tell its kind",
    body("%y: f32[] = Foo() {a = [1, 2.0]}"): "a list of int and float",
    body("%y: f32[] = Foo() {a = ints(1.0)}"): "float in a list of ints",
    body("%y: f32[] = Foo() {a = true}"): "no attribute holds true or false",
    body("%y: f32[] = Foo() {a = $v}"): "only rules have variables",
    body("%y: f32[] = Foo() {a = 9223372036854775808}"): "not an int attribute",
    body("%y: f32[] = Foo() {a = " + "9" * 5000 + "}"): "the number is too long",
    body("%y: f32[*S] = Foo()"): "only rules have runs of dims",
    body("%y: f32[] = Foo(0.5)"): "an operand is the name of a value",
    body("%y: f32[] = Foo(const %x)"): "an operand is the name of a value",
    body('%y: f32[] = Foo() {a = "x'): "a string has no end",
    body("%y: f32[] = Foo() ~"): "'~' does not belong here",
    body("%y: f32[(N + 1)^2] = Foo()"): "only a single factor",
    body("%y: f32[min()] = Foo()"): "expected an argument of min",
    body("%y: f32[] = Foo@x()"): "after '@' stands the version",
    body("const %c: f32[N] = #12345678"): "a tensor whose dims are numbers",
    body("const %c: u8[1] = [256]"): "256 is not between 0 and 255",
    body("const %c: i4[1] = [8]"): "8 is not between -8 and 7",
    body("const %c: f32[2] = [1.0]"): "1 elements are given and the type has 2",
    body("const %c: f16[] = 0x12345"): "is not between",
    body("const %c: bool[] = 1"): "is not true or false",
    body('const %c: f32[] = "a"'): "is not a number",
    body("const %c: ?[1] = [1]"): "contents need an element type",
    "// ampc 1\ngraph @g(%x: f32[]) -> (%x: f32[2]) { return %x }": "%x has the type f32[]",
    "// ampc 1\ngraph @g(%x: f32[]) -> () { return %x }": "the graph returns other values",
}
"""A text that is wrong → what the error says."""


@pytest.mark.parametrize("text", WRONG, ids=lambda text: WRONG[text])
def test_a_mistake_is_named(text: str) -> None:
    """A text that is wrong raises ``ParseError`` that says what is wrong."""
    with pytest.raises(ParseError) as caught:
        parse_model(text)
    assert WRONG[text] in caught.value.what


def test_a_mistake_has_a_place() -> None:
    """An error names line and column, and a caret stands under the mistake."""
    with pytest.raises(ParseError) as caught:
        parse_model(body("  %y: f32[] = Foo(%x, %zz)"), source="a.ir")
    place, line, caret = caught.value.where.splitlines()
    assert place == "a.ir, line 3, column 23"
    assert line[caret.index("^") :].startswith("%zz")


@given(st.integers(0, len(CANONICAL)), st.text(st.sampled_from('[](){}%@#"\\/-=:,0x*^<>? \nab'), max_size=3))
def test_damaged_texts_are_refused_or_read(at: int, junk: str) -> None:
    """No text, however damaged, raises anything but ``ParseError``; what is read is valid."""
    try:
        model = parse_model(CANONICAL[:at] + junk + CANONICAL[at + 1 :])
    except ParseError:
        return
    verify(model)


@pytest.mark.parametrize("text", ["(" * 3000 + "N", "min(" * 3000, "N*" * 3000 + "N", "-" * 3000])
def test_deep_dims_do_not_exhaust_the_stack(text: str) -> None:
    """Nesting beyond the limit is an error, and a long chain is none."""
    try:
        parse_dim(text)
    except ParseError:
        assert "N*" not in text


def test_dims_that_explode_are_refused() -> None:
    """A product of sums that multiplies out to more terms than memory holds is an error."""
    with pytest.raises(ParseError, match="terms"):
        parse_dim("*".join(f"(a{i} + b{i} + c{i})" for i in range(40)))


def test_nested_graphs_cost_the_printer_no_stack() -> None:
    """Graphs nested deeper than the stack are printed and verified, and reading that is an error."""
    model = Model(opsets={"": 20})
    model.graph = graph = edit.new_graph("g", model)
    owners: list[tuple[Graph, Node]] = []
    for _ in range(2000):
        node = Node("If", (), (), version=edit.NEWEST)
        inner = edit.new_graph("g", model, node)
        node.attributes = {"body": Attr("graph", inner)}
        owners.append((graph, node))
        graph = inner
    for outer, node in reversed(owners[:60]):
        edit.attach(outer, node)
    assert print_model(model).count("If()") == 60
    verify(model)
    with pytest.raises(ParseError, match=f"deeper than {DEPTH} levels"):
        parse_model(print_model(model))


# Side files --------------------------------------------------------------------------------------


def stored(tmp_path: Path, *arrays: np.ndarray) -> tuple[Model, Model]:
    """Return a model with these constants, and what a file gives back."""
    model = Model(opsets={"": 20})
    model.graph = edit.new_graph("g", model)
    for array in arrays:
        edit.add_constant(model.graph, Constant.from_array(array))
    save_text(model, tmp_path / "m.ir")
    return model, load_text(tmp_path / "m.ir")


def test_large_constants_go_to_the_side_file(tmp_path: Path) -> None:
    """What is written to a file is read back, contents included, strings and empty tensors too."""
    texts = np.array([f"t{i}" for i in range(40)], object)
    texts[3] = b"\xff"
    model, again = stored(
        tmp_path, np.arange(1000, dtype=np.float32), np.ones((3, 40), bool), np.zeros((0, 20)), texts, np.arange(3)
    )
    equal(model, again)
    for a, b in zip(model.graph.constants, again.graph.constants, strict=True):
        np.testing.assert_array_equal(a.array(), b.array())


def test_the_side_file_is_mapped(tmp_path: Path) -> None:
    """Contents are views of the file, and the same contents are stored once."""
    weights = np.arange(1 << 16, dtype=np.float32)
    _, again = stored(tmp_path, weights, weights.copy())
    first, second = (v.constant for v in again.graph.constants)
    assert first is not None
    assert second is not None
    assert not first.is_computed
    assert first.array().ctypes.data == second.array().ctypes.data
    assert side_path(tmp_path / "m.ir").stat().st_size < weights.nbytes + 4096


def test_no_side_file_without_large_constants(tmp_path: Path) -> None:
    """A model of small constants is one file."""
    stored(tmp_path, np.arange(3))
    assert [p.name for p in tmp_path.iterdir()] == ["m.ir"]


def test_contents_that_are_not_there(tmp_path: Path) -> None:
    """Without its side file a text keeps its digests, and asking for contents is the user's error."""
    model, _ = stored(tmp_path, np.arange(1000))
    text = (tmp_path / "m.ir").read_text()
    again = parse_model(text)
    equal(model, again)
    assert print_model(again) == text
    with pytest.raises(InputError, match="are not here"):
        next(iter(again.graph.constants)).array()


@pytest.mark.parametrize("keep", [0, 10, 4000, -1])
def test_a_damaged_side_file_is_refused(tmp_path: Path, keep: int) -> None:
    """A side file that was cut off is the user's error."""
    stored(tmp_path, np.arange(1000))
    path = side_path(tmp_path / "m.ir")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="side file is damaged"):
        load_text(tmp_path / "m.ir")


@pytest.mark.parametrize(
    "index", [b"[" * 5000, b'[["00000000","f32",[4],-1,16]]', b'[["00000000","f32",[4],0,160]]', b"[1]", b'[["0"]]']
)
def test_a_lying_side_file_is_refused(tmp_path: Path, index: bytes) -> None:
    """An index that points beyond the file or is none at all is the user's error."""
    stored(tmp_path, np.arange(1000))
    side_path(tmp_path / "m.ir").write_bytes(bytes(64) + index + len(index).to_bytes(8, "little") + b"ampcside")
    with pytest.raises(InputError):
        load_text(tmp_path / "m.ir")


def test_another_type_than_the_side_file_holds(tmp_path: Path) -> None:
    """A text that changes the type of stored contents is refused with a place."""
    stored(tmp_path, np.arange(1000))
    path = tmp_path / "m.ir"
    path.write_text(path.read_text().replace("i64[1000]", "i64[10]"))
    with pytest.raises(ParseError, match=r"holds i64\[1000\]"):
        load_text(path)


def test_digests_that_begin_alike_get_more_digits() -> None:
    """The digits of a digest belong to the first one that begins with them."""
    digits = Abbreviations()
    assert [digits.of(d) for d in ("aaaaaaaa11", "aaaaaaaa12", "bbbbbbbb", "aaaaaaaa11")] == [
        "aaaaaaaa", "aaaaaaaa12", "bbbbbbbb", "aaaaaaaa",
    ]  # fmt: skip
