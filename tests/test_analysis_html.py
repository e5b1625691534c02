"""The page of an analysis: complete in itself, well-formed, and safe whatever the model calls things."""

from __future__ import annotations

import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner

from compiler import InputError, analyze_model
from compiler.analysis.show import GAINS
from compiler.analysis.stages import stages
from compiler.analyzing import write_page
from compiler.cli import app
from compiler.ir.parser import parse_model
from compiler.opening import prepare
from tests.test_seed_api import gelu

_VOID = {"meta", "rect", "br"}


class _Page(HTMLParser):
    """Reads a page: checks that tags are closed in order, keeps tags, attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in _VOID or tag == "rect":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of a small model."""
    return analyze_model(gelu(tmp_path_factory.mktemp("page")), target="cpu_avx2").to_html()


def test_the_page_is_well_formed(page: str) -> None:
    """Every tag is closed, in order."""
    assert _Page(page).open == []


def test_the_page_needs_nothing_else(page: str) -> None:
    """There is no script and nothing to load, and the page's own policy forbids both."""
    read = _Page(page)
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(read.tags)
    assert not [name for name, _ in read.attributes if name in ("src", "href", "srcset", "action") or name[:2] == "on"]
    assert not re.search(r"url\(|@import|https?://", page)
    assert ("content", "default-src 'none'; style-src 'unsafe-inline'") in read.attributes


def test_the_page_shows_what_was_found(page: str) -> None:
    """Pictures, stages, families and rewrites are there; the page follows light and dark and fits a phone."""
    read = _Page(page)
    assert read.tags.count("svg") == 2
    for text in ("activation", "matrix multiplication", "RaiseGelu", "Stages", "What would be done", "predicted"):
        assert text in read.text
    assert "prefers-color-scheme: dark" in page
    assert ("content", "width=device-width, initial-scale=1") in read.attributes


def test_the_pictures_are_to_scale(page: str) -> None:
    """The pieces of a picture lie side by side within its width; the longer of the two fills it."""
    ends = []
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        pieces = [(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)" y="0" width="([\d.]+)"', picture)]
        assert all(a + w <= b + 0.11 for (a, w), (b, _) in itertools.pairwise(pieces))
        ends.append(sum(pieces[-1]))
    assert max(ends) == pytest.approx(1000, abs=1)


def test_names_are_text_whatever_they_are(tmp_path: Path) -> None:
    """Names of nodes and tensors that look like markup, or hold control characters, come out as text."""
    model = onnx.load(gelu(tmp_path))
    evil = '</title><script>alert("1")</script>\x00\u202e&amp;'
    for node in model.graph.node:
        node.name = evil + node.name
    model.graph.input[0].name = model.graph.node[0].input[0] = evil
    read = _Page(analyze_model(model, target="cpu").to_html())
    assert "script" not in read.tags
    assert '<script>alert("1")</script>\\x00' in read.text
    assert "\x00" not in read.text and "\u202e" not in read.text
    assert read.open == []


def test_equal_analyses_give_equal_pages(tmp_path: Path) -> None:
    """The page of a model is the same each time."""
    path = gelu(tmp_path)
    assert analyze_model(path, target="cpu").to_html() == analyze_model(path, target="cpu").to_html()


def test_a_page_without_opportunities(tmp_path: Path) -> None:
    """What was only looked at has a page too, without pictures."""
    read = _Page(analyze_model(gelu(tmp_path), target="cpu", opportunities=False).to_html())
    assert "svg" not in read.tags and "Operators" in read.text


def test_a_page_never_replaces_the_model(tmp_path: Path) -> None:
    """Writing the page over the model is refused."""
    path = gelu(tmp_path)
    kept = path.read_bytes()
    with pytest.raises(InputError, match="overwrite"):
        write_page(analyze_model(path, target="cpu", opportunities=False), path)
    assert path.read_bytes() == kept


def test_stages_cut_where_little_is_handed_on() -> None:
    """Between two blocks with branches, the cut is at the one value that joins them; no node is lost."""
    lines = ["%v0: f32[4] = Relu(%x)"]
    for i in range(4):
        lines += [
            f"%a{i}: f32[4] = Exp(%v{i})",
            f"%b{i}: f32[4] = Neg(%v{i})",
            f"%c{i}: f32[4] = Abs(%v{i})",
            f"%d{i}: f32[4] = Add(%a{i}, %b{i})",
            f"%v{i + 1}: f32[4] = Add(%d{i}, %c{i})",
        ]
    head = "// ampc 1, ir 9, opset 20\ngraph @g(%x: f32[4]) -> (%v4: f32[4]) {"
    model = parse_model("\n".join([head, *lines, "return %v4\n}\n"]))
    prepare(model)
    found = stages(model.graph, lambda node: 1.0, wanted=4)
    assert [s.nodes for s in found] == [6, 5, 5, 5]
    assert sum(s.us for s in found) == 21
    assert found[1].operators == {"Add": 2, "Abs": 1, "Exp": 1}
    assert found[-1].gives == "f32[4]"


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    """``ampc analyze --html`` writes the page of what it shows; with ``--quick`` the pipeline is not tried."""
    path = gelu(tmp_path)
    for options, there in (((), True), (("--quick",), False)):
        command = ["analyze", str(path), "-t", "cpu_avx2", "--html", str(tmp_path / "a.html"), "--json", *options]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
        assert (json.loads(done.stdout)["opportunities"] is not None) == there
        assert (GAINS in (tmp_path / "a.html").read_text(encoding="utf-8")) == there
