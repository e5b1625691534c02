"""The architecture, held: who may import whom, and the few rules that every module keeps.

A module that needs an import which this table forbids is in the wrong folder, or wants something that belongs
into the other one.  Change the table only together with the design.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.source_code import PACKAGES, ROOT, Import, Module, at_import_time, imports, modules, product

KNOWLEDGE = ("compiler.ir", "compiler.errors", "targets")
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "targets": (),
    "compiler.errors": (),
    "compiler.ir": ("compiler.errors",),
    "compiler.operators": ("compiler.ir",),
    "compiler.analysis": (*KNOWLEDGE, "compiler.cost", "compiler.operators"),
    "compiler.cost": KNOWLEDGE,
    "compiler.measure": (*KNOWLEDGE, "compiler.backend", "compiler.cost"),  # it opens bundles, and keeps what it finds
    "compiler.rewrite": (*KNOWLEDGE, "compiler.analysis", "compiler.cost"),
    "compiler.frontend": KNOWLEDGE,
    "compiler.backend": KNOWLEDGE,
    "compiler.verify": (*KNOWLEDGE, "compiler.frontend", "compiler.backend"),  # it reads and writes what it checks
    "compiler.manager": (*KNOWLEDGE, "compiler.analysis", "compiler.cost", "compiler.rewrite", "passes"),
    "compiler": ("compiler", "targets"),
    "passes": (
        *KNOWLEDGE,
        "compiler.rewrite",
        "compiler.analysis",
        "compiler.cost",
        "compiler.manager",
    ),
    "tools": ("compiler",),
}
"""For each part, the parts of ours that it may import, and itself. The longest name that fits is the part.

``compiler`` stands for the composition root: the modules that lie directly in that folder.  The manager
imports the package ``passes`` to look through it, and no pass by name; ``tools`` may have the public names of
``compiler`` only.  Other tests hold these two.
"""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "onnx": ("compiler.frontend", "compiler.backend", "compiler.ir.schema", "compiler.verify", "tools"),
    "onnxruntime": (
        "compiler.verify.worker",
        "compiler.measure.profiles_child",
        "compiler.measure.timed_child",
        "compiler.measure.assignment_child",
        "compiler.backend.session",
        "targets.kernels",
        "tools",
    ),
    "onnx_graphsurgeon": ("compiler.frontend.surgeon", "compiler.backend.surgeon", "compiler.surgeon", "tools"),
    "networkx": ("compiler.analysis", "compiler.cost", "compiler.rewrite", "passes"),
    "click": ("compiler.cli", "tools"),
    "rich": ("compiler.cli", "compiler.render", "tools"),
}
"""Libraries, and the modules whose job they are; a name stands for all modules that begin with it."""

HEAVY = ("onnx", "onnxruntime", "onnx_graphsurgeon", "networkx", "google.protobuf", "hypothesis")
"""What ``ampc --help`` must not wait for."""

NAMES_THAT_SAY_NOTHING = {"utils", "util", "helpers", "helper", "misc", "common", "base", "stuff", "core"}
MAY_PRINT = ("compiler.cli", "tools", "compiler.verify.worker_child")
"""The command line, what is for people, and the program of the child process, whose end is only its own."""


def within(name: str, part: str) -> bool:
    """Return whether a dotted name is a part or lies below it."""
    return name == part or name.startswith(f"{part}.")


def part_of(name: str) -> str:
    """Return the part of the table that a module belongs to."""
    return max((part for part in MAY_IMPORT if within(name, part)), key=len)


def forbidden_imports(module: Module) -> Iterator[Import]:
    """Yield the imports among our own parts that the table does not allow."""
    part = part_of(module.name)
    for found in imports(module):
        if found.target.partition(".")[0] not in (*PACKAGES, "tests"):
            continue
        other = part_of(found.target) if not found.target.startswith("tests") else "tests"
        if other != part and not any(within(found.target, allowed) for allowed in MAY_IMPORT[part]):
            yield found


def functions(module: Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function of a module."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def calls(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the dotted name and the line of every call."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            yield ast.unparse(node.func), node.lineno


def test_there_is_something_to_look_at() -> None:
    """The tests below look at every package, so none of them holds for lack of modules."""
    assert {module.name.partition(".")[0] for module in product()} == set(PACKAGES)


def test_imports_point_one_way() -> None:
    """Every import among our own parts is in the table, lazy imports included."""
    wrong = [str(found) for module in product() for found in forbidden_imports(module)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", ONLY_IN)
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    """A library is known only to the modules whose job it is; what is for typing only does not count."""
    wrong = [
        str(found)
        for module in product()
        for found in imports(module)
        if within(found.target, library) and not found.typing_only
        if not any(within(module.name, place) or module.name.startswith(place) for place in ONLY_IN[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_tools_use_public_names_only() -> None:
    """Tools import names that ``compiler`` exports, and nothing from inside it."""
    public = set(exported_names())
    for module in product():
        for found in imports(module) if within(module.name, "tools") else ():
            if within(found.target, "compiler"):
                assert found.target in {"compiler", "compiler.errors"}, str(found)
                assert found.target != "compiler" or set(found.names) <= public, str(found)


def exported_names() -> list[str]:
    """Return what ``compiler/__init__.py`` lists in ``__all__``."""
    root = next(module for module in modules() if module.name == "compiler")
    for node in root.tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and "__all__" in ast.unparse(node).split("=")[0]:
            assert node.value is not None
            return [str(name) for name in ast.literal_eval(node.value)]
    raise AssertionError("compiler/__init__.py has no __all__")


def test_compiler_never_names_passes_or_tools() -> None:
    """Passes are found by discovery and tools by entry points: the machine knows no particular one."""
    wrong = [
        str(found)
        for module in product()
        if within(module.name, "compiler")
        for found in imports(module)
        if within(found.target, "tools") or found.target.startswith("passes.")
    ]
    assert not wrong, "\n".join(wrong)


def test_runtime_is_imported_lazily() -> None:
    """No module but the child's own imports ONNX Runtime when it is itself imported."""
    wrong = [
        str(found)
        for module in product()
        for found in at_import_time(module)
        if within(found.target, "onnxruntime") and not module.name.startswith("compiler.verify.worker_")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("module", ["compiler", "compiler.cli"])
def test_start_is_light(module: str) -> None:
    """Importing the command line loads none of the heavy libraries."""
    program = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


def test_modules_say_what_they_are_for() -> None:
    """Every module begins with a docstring."""
    wrong = [str(module) for module in modules() if not ast.get_docstring(module.tree)]
    assert not wrong, "\n".join(wrong)


def test_module_names_say_something() -> None:
    """No module is called by a name that says nothing."""
    wrong = [str(module) for module in modules() if NAMES_THAT_SAY_NOTHING & set(module.name.split("."))]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_prints_and_exits() -> None:
    """Printing and exiting are the command line's; everything else returns or raises."""
    wrong = [
        f"{module}:{line} calls {name}"
        for module in product()
        if not any(within(module.name, place) for place in MAY_PRINT)
        for name, line in calls(module)
        if name in {"print", "sys.exit", "exit", "quit", "os._exit"}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_environment_variables_of_our_own() -> None:
    """What a compilation does is in its arguments: there is no variable that changes it."""
    wrong = [
        f"{module}:{node.lineno} {node.value}"
        for module in product()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("AMPC_")
    ]
    assert not wrong, "\n".join(wrong)


def test_no_exception_is_swallowed_in_silence() -> None:
    """Nobody catches everything and does nothing about it."""
    wrong = [
        f"{module}:{node.lineno}"
        for module in product()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        if node.type is None or ast.unparse(node.type) in {"Exception", "BaseException"}
        if all(isinstance(statement, ast.Pass | ast.Continue) for statement in node.body)
    ]
    assert not wrong, "\n".join(wrong)


def test_every_test_states_its_law() -> None:
    """Every test function has a docstring that says what it holds."""
    wrong = [
        f"{module}:{function.lineno} {function.name}"
        for module in modules()
        if module.name.startswith("tests.test_")
        for function in functions(module)
        if function.name.startswith("test_") and not ast.get_docstring(function)
    ]
    assert not wrong, "\n".join(wrong)
