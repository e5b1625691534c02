"""The project's own modules, as syntax trees: what the tests of the architecture look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("compiler", "passes", "targets", "tools")
OURS = (*PACKAGES, "tests")


@dataclass(frozen=True)
class Module:
    """One Python file of ours."""

    name: str
    """Its dotted name; a package's is that of its folder."""
    path: Path
    tree: ast.Module

    def __str__(self) -> str:
        """Return the path from the root of the repository."""
        return str(self.path.relative_to(ROOT))


@dataclass(frozen=True)
class Import:
    """One name that a module imports, at the top or anywhere inside."""

    module: Module
    target: str
    """The absolute dotted name of the module; of ``from a import b`` it is ``a.b`` where that is one."""
    line: int
    typing_only: bool
    """Whether it stands under ``if TYPE_CHECKING``, so that it never happens."""
    names: tuple[str, ...] = ()
    """What ``from`` takes out of the module."""

    def __str__(self) -> str:
        """Return the place and the target."""
        return f"{self.module}:{self.line} imports {self.target}"


@cache
def modules() -> tuple[Module, ...]:
    """Return every module of the packages and the tests, sorted by path."""
    found = []
    for top in OURS:
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found.append(Module(name, path, ast.parse(path.read_text("utf-8"), str(path))))
    return tuple(found)


def product() -> list[Module]:
    """Return the modules that are installed: all but the tests."""
    return [module for module in modules() if not module.name.startswith("tests")]


def imports(module: Module) -> Iterator[Import]:
    """Yield all that a module imports, lazily or not, and by ``importlib`` where the name is literal."""
    typing_only = {id(node) for node in _typing_only(module.tree)}
    for node in ast.walk(module.tree):
        hidden = id(node) in typing_only
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, alias.name, node.lineno, hidden)
        elif isinstance(node, ast.ImportFrom):
            yield from _imports_from(module, node, hidden)
        elif isinstance(node, ast.Call) and _is_import_call(node.func):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(module, first.value, node.lineno, hidden)


def _imports_from(module: Module, node: ast.ImportFrom, hidden: bool) -> Iterator[Import]:
    source = node.module or ""
    if node.level:
        package = module.name.split(".")
        if module.path.name != "__init__.py":
            package = package[:-1]
        package = package[: len(package) - node.level + 1]
        source = ".".join([*package, *([source] if source else [])])
    known = {m.name for m in modules()}
    for alias in node.names:
        inner = f"{source}.{alias.name}"
        target = inner if inner in known else source
        yield Import(module, target, node.lineno, hidden, () if target == inner else (alias.name,))


def _is_import_call(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in {"import_module", "__import__"}


def _typing_only(tree: ast.Module) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for statement in node.body:
                yield from ast.walk(statement)


def at_import_time(module: Module) -> Iterator[Import]:
    """Yield the imports that importing the module causes: none in functions, none for typing only."""
    lazy = {
        id(inner)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for inner in ast.walk(node)
    }
    top = {
        (node.lineno)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in lazy
    }
    yield from (found for found in imports(module) if found.line in top and not found.typing_only)
