"""Load a target: find it by name or path, follow ``extends``, merge, decode, and check what types cannot say.

Shipped targets extend at most one other, and a file of the user's own may extend any of those, so a value
comes from one of three files at most. Longer chains are refused: nobody could tell any more why a value is
what it is.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

from targets.catalog import AUTO, Entry, catalog, find
from targets.decode import Path, decode, dotted
from targets.errors import TargetError, nearest
from targets.kernels.operators import known_operators
from targets.names import check_extension, check_provider, check_session_setting
from targets.provider_options import check_option
from targets.schema import Runtime, Target

_MOST_LAYERS = 3
"""The file asked for, the one that it extends, and the one that that extends."""
OLDEST_IR = 4
"""The lowest IR version that can be emitted."""
_OWN = ("name", "extends", "summary")
"""Keys that are never taken over from the extended target."""
_NAME = re.compile(r"[a-z][a-z0-9_-]*")


@dataclass(frozen=True)
class _Layer:
    """Hold one file of the chain."""

    file: Traversable
    data: dict[str, Any]

    def own(self) -> dict[str, Any]:
        """Return what a file that extends this one takes over."""
        return {key: value for key, value in self.data.items() if key not in _OWN}


def load(name_or_path: str) -> Target:
    """Load a target other than ``auto``; raise ``TargetError`` when it does not exist or is wrong."""
    entry = find(name_or_path)
    layers = _layers(entry)
    merged: dict[str, Any] = {}
    origins: dict[Path, str] = {}
    for layer in reversed(layers[1:]):
        _merge(merged, layer.own(), str(layer.file), (), origins)
    file = str(layers[0].file)
    _merge(merged, layers[0].data, file, (), origins)
    check = _Check(file, origins)
    target = decode(merged, Target, origin=check.origin)
    check.everything(target, entry)
    return dataclasses.replace(target, source=file, runtime=_with_options(target.runtime))


def _with_options(runtime: Runtime) -> Runtime:
    """Lay the options that stand in a table of their own over those in the list of providers."""
    providers = tuple((name, {**own, **runtime.options.get(name, {})}) for name, own in runtime.providers)
    return dataclasses.replace(runtime, providers=providers, options={})


def read_toml(file: Traversable) -> dict[str, Any]:
    """Read a TOML file, with or without a byte order mark; raise ``TargetError`` when it is not one."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise TargetError(f"cannot be read ({error.strerror or error})", file=file) from error
    except UnicodeDecodeError as error:
        raise TargetError(f"is not UTF-8 text ({error.reason} at byte {error.start})", file=file) from error
    except tomllib.TOMLDecodeError as error:
        raise TargetError(f"is not valid TOML: {error}", file=file) from error


def _layers(entry: Entry) -> list[_Layer]:
    """Read the file and those that it extends, the requested one first."""
    file = entry.locate()
    layers = [_Layer(file, read_toml(file))]
    while "extends" in layers[-1].data:
        child = layers[-1]
        parent = _parent(child).locate()
        if len(layers) == _MOST_LAYERS:
            chain = " extends ".join(str(file) for file in [*(layer.file for layer in layers), parent])
            hint = "extend a target that itself extends at most one other"
            raise TargetError(f"extends too far: {chain}", file=child.file, key="extends", hint=hint)
        layers.append(_Layer(parent, read_toml(parent)))
    return layers


def _parent(child: _Layer) -> Entry:
    """Find what a file extends."""
    name = child.data["extends"]
    if not isinstance(name, str):
        raise TargetError(f"should be a target's name, not {name!r}", file=child.file, key="extends")
    if name == AUTO:
        why = f"{AUTO!r} depends on the machine that runs the compiler, so nothing can extend it"
        raise TargetError(why, file=child.file, key="extends", hint="extend the target that it chooses")
    return find(name, relative_to=child.file)


def _merge(into: dict[str, Any], data: dict[str, Any], file: str, at: Path, origins: dict[Path, str]) -> None:
    """Lay ``data`` over ``into``, tables key by key, and note which file every key comes from."""
    for key, value in data.items():
        path = (*at, key)
        origins[path] = file
        if isinstance(value, dict):
            kept = into.get(key)
            into[key] = dict(kept) if isinstance(kept, dict) else {}
            _merge(into[key], value, file, path, origins)
        else:
            into[key] = value


@dataclass(frozen=True)
class _Check:
    """Check what the types of the schema cannot say."""

    file: str
    """The file that was asked for, to blame for what is in none."""
    origins: dict[Path, str]
    """Which file every key comes from."""

    def origin(self, path: Path) -> str:
        """Return the file that a value came from."""
        known = (self.origins[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.origins)
        return next(known, self.file)

    def everything(self, target: Target, entry: Entry) -> None:
        """Raise ``TargetError`` for the first thing that is wrong."""
        self._name(target, entry)
        self._positive(("machine", "cores"), target.machine.cores)
        self._extensions(target)
        self._providers(target)
        self._constraints(target)
        self._versions(target)
        for name, value in target.runtime.session.items():
            path = ("runtime", "session", name)
            check_session_setting(name, value, file=self.origin(path), key=dotted(path))

    def _fail(self, path: Path, why: str, *, hint: str = "") -> None:
        """Raise the error for the value at ``path``."""
        raise TargetError(why, file=self.origin(path), key=dotted(path), hint=hint)

    def _name(self, target: Target, entry: Entry) -> None:
        """Check that the name is well formed, is the one it is found by, and is no other target's."""
        if not _NAME.fullmatch(target.name):
            hint = "use lower-case letters, digits, - and _"
            self._fail(("name",), f"{target.name!r} is not a target's name", hint=hint)
        if not entry.by_path and target.name != entry.name:
            self._fail(("name",), f"is {target.name!r}, but the target is found as {entry.name!r}")
        other = catalog().get(target.name)
        taken = target.name == AUTO or (other is not None and str(other.locate()) != self.file)
        if entry.by_path and taken:
            self._fail(("name",), f"there already is a target {target.name!r}", hint="choose another name")

    def _extensions(self, target: Target) -> None:
        """Check the spelling of instruction set extensions, which decisions silently depend on."""
        for index, name in enumerate(target.machine.isa):
            path: Path = ("machine", "isa", index)
            check_extension(name, file=self.origin(path), key=dotted(path))
        for index, name in enumerate(target.numerics.int8.exact_with if target.numerics.int8 else ()):
            path = ("numerics", "int8", "exact_with", index)
            check_extension(name, file=self.origin(path), key=dotted(path))

    def _positive(self, path: Path, value: int | None) -> None:
        """Check a count or version, where there is one."""
        if value is not None and value < 1:
            self._fail(path, f"should be at least 1, not {value}")

    def _providers(self, target: Target) -> None:
        """Check that there are providers, that ONNX Runtime has them, and that none is there twice."""
        names = [name for name, _ in target.runtime.providers]
        if not names:
            self._fail(("runtime", "providers"), "should name at least one execution provider")
        for index, name in enumerate(names):
            path: Path = ("runtime", "providers", index)
            check_provider(name, file=self.origin(path), key=dotted(path))
            if name in names[:index]:
                self._fail(path, f"{name} is there twice")
            self._options((*path, 1), name, target.runtime.providers[index][1])
        for name, options in target.runtime.options.items():
            path = ("runtime", "options", name)
            check_provider(name, file=self.origin(path), key=dotted(path))
            if name not in names and self.origin(path) == self.file:
                hint = f"its providers are {', '.join(names)}"
                self._fail(path, f"the target does not use {name}", hint=hint)
            self._options(path, name, options)

    def _options(self, path: Path, provider: str, options: dict[str, Any]) -> None:
        """Check that a provider has these options."""
        for option, value in options.items():
            key = (*path, option)
            check_option(provider, option, value, file=self.origin(key), key=dotted(key))

    def _constraints(self, target: Target) -> None:
        """Check ranks, and that operators exist."""
        self._positive(("constraints", "max_rank"), target.constraints.max_rank)
        listed = target.constraints
        for field, domain, names in (
            ("contrib", "com.microsoft", listed.contrib or ()),
            ("constant_weights", "", listed.constant_weights),
            ("lacks", "", listed.lacks),
        ):
            for index, name in enumerate(names):
                self._operator(("constraints", field, index), domain, name)

    def _operator(self, path: Path, domain: str, name: str) -> None:
        """Check that some provider is known to run an operator; one of another domain says which."""
        prefix, _, op = name.rpartition("::")
        known = known_operators()
        if (prefix or domain, op) in known and not (domain and prefix):
            return
        near = nearest(op, [other for other_domain, other in known if other_domain == (prefix or domain)])
        if near and prefix and not domain:
            near = f"{prefix}::{near}"
        why = f"there is no operator {name!r}" + (f" in {domain}" if domain else "")
        raise TargetError(why, file=self.origin(path), key=dotted(path), nearest=near)

    def _versions(self, target: Target) -> None:
        """Check that the bounds of the opset and the IR version, and the preference, are in order."""
        opset = target.runtime.opset
        newest = target.runtime.ir_version.max
        if newest is not None and newest < OLDEST_IR:
            why = f"should be at least {OLDEST_IR}, from which on weights need not be inputs, not {newest}"
            self._fail(("runtime", "ir_version", "max"), why)
        for name, value in (("min", opset.min), ("max", opset.max), ("known", opset.known), ("prefer", opset.prefer)):
            self._positive(("runtime", "opset", name), value)
        if opset.min and opset.max and opset.min > opset.max:
            self._fail(("runtime", "opset", "min"), f"{opset.min} is above max, which is {opset.max}")
        if opset.prefer and not (opset.min or 1) <= opset.prefer <= (opset.max or opset.prefer):
            self._fail(("runtime", "opset", "prefer"), f"{opset.prefer} is not between min and max")
