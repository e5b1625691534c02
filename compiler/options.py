"""What a caller of a compilation may ask for."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from targets import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a caller may ask for; see ``compile_model``."""

    target: str | Target = "auto"
    output: Path | None = None
    verify: bool = True
    verify_each: bool = True
    passes: str | Sequence[Any] | None = None
    disable: tuple[str, ...] = ()
    until: str = ""
    select: str = "cost"
    inputs: Mapping[str, Any] | None = None
    external_data: bool | None = None
    dump_ir: Path | None = None
    repro: Path | None = None
    log_rewrites: str | os.PathLike[str] | Callable[[str], None] | None = None
    timeout: float = 120.0
    memory_limit: int | None = None
    seed: int = 0
    progress: Callable[[str], None] | None = None
    dims: Mapping[str, int] = field(default_factory=dict)
    device_check: bool = False
    threads: int | None = None
    tune: float | None = None
    database: Path | None = None
