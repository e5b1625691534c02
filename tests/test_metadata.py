"""Metadata: what is saved has the published form, says what was done, and is the same for equal builds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from compiler import InputError, OperatorOptimizer, OptimizationTarget
from compiler.metadata import SCHEMA, Metadata, made_schema, published_schema, read_metadata
from tests.test_seed_api import gelu


def saved(tmp_path: Path, target: str = "cpu_avx2", output: str = "o.onnx", **options: Any) -> dict[str, Any]:
    """Optimize a small model and return the metadata that were saved."""
    optimizer = OperatorOptimizer(gelu(tmp_path), target=target, config={"cpu_threads": 2})
    optimizer.apply_optimizations(tmp_path / output, **options)
    optimizer.save_optimization_metadata(tmp_path / "metadata.json")
    found: dict[str, Any] = json.loads((tmp_path / "metadata.json").read_bytes())
    return found


def mistakes(value: Any, schema: dict[str, Any], root: dict[str, Any], at: str = "$") -> list[str]:
    """Return what in a JSON value contradicts a schema, as far as the published one uses the language."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        found = [mistakes(value, choice, root, at) for choice in schema["anyOf"]]
        return [] if [] in found else min(found, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{at}: {value!r}"]
    kinds = schema["type"] if isinstance(schema.get("type"), list) else [schema.get("type")]
    if not any(_is(value, kind) for kind in kinds):
        return [f"{at}: {value!r} is not {kinds}"]
    if isinstance(value, dict):
        return _of_object(value, schema, root, at)
    if isinstance(value, list):
        first = schema.get("prefixItems", [])
        items = [*first, *[schema.get("items", {})] * (len(value) - len(first))]
        checked = enumerate(zip(value, items, strict=True))
        return [m for i, (item, wanted) in checked if wanted for m in mistakes(item, wanted, root, f"{at}[{i}]")]
    return []


def _of_object(value: dict[str, Any], schema: dict[str, Any], root: dict[str, Any], at: str) -> list[str]:
    fields, more = schema.get("properties", {}), schema.get("additionalProperties", {})
    found = [f"{at}: {key} is missing" for key in schema.get("required", []) if key not in value]
    for key, item in value.items():
        known = fields.get(key, more)
        if known is False:
            found.append(f"{at}: {key} is unknown")
        elif known:
            found += mistakes(item, known, root, f"{at}.{key}")
    return found


def _is(value: Any, kind: str | None) -> bool:
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "number": (int, float)}
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is None or isinstance(value, types[kind])


def test_the_published_schema_is_that_of_the_code() -> None:
    """The schema file is what the classes give, descriptions included; write it anew with ``made_schema``."""
    made = json.loads(made_schema())
    assert published_schema() == made, f"write compiler.metadata.made_schema() to compiler/{SCHEMA}"
    assert all(f["description"] for part in made["$defs"].values() for f in part["properties"].values())


@pytest.mark.parametrize("target", [t for t in OptimizationTarget if t.value in ("auto", "cpu", "gpu_cuda", "npu")])
@pytest.mark.parametrize("output", ["o.onnx", "bundle"])
def test_metadata_have_the_published_form(tmp_path: Path, target: OptimizationTarget, output: str) -> None:
    """What is saved, for a file and for a bundle and whatever the target, agrees with the schema and can be read."""
    options = {"dims": {"batch": 1}} if target is OptimizationTarget.NPU else {}
    found = saved(tmp_path, target.value, output, **options)
    assert mistakes(found, published_schema(), published_schema()) == []
    assert read_metadata(tmp_path / "metadata.json").target.config == {"cpu_threads": 2}


def test_metadata_of_a_model_in_memory(tmp_path: Path) -> None:
    """A model without a file, optimized without an output and unverified, has metadata of the same form."""
    optimizer = OperatorOptimizer(onnx.load(gelu(tmp_path)), target="cpu")
    optimizer.apply_optimizations(verify=False)
    optimizer.save_optimization_metadata(tmp_path / "metadata.json")
    found = read_metadata(tmp_path / "metadata.json")
    assert (found.status, found.source.name, found.source.sha256, found.files) == ("unverified", "ModelProto", "", {})


def test_metadata_of_a_model_that_is_handed_on(tmp_path: Path) -> None:
    """A model that the IR cannot hold gives metadata of the same form, which say so and why."""
    model = onnx.load(gelu(tmp_path))
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", 19))
    optimizer = OperatorOptimizer(model, target="cpu")
    optimizer.apply_optimizations()
    optimizer.save_optimization_metadata(tmp_path / "metadata.json")
    found = json.loads((tmp_path / "metadata.json").read_bytes())
    assert mistakes(found, published_schema(), published_schema()) == []
    assert (found["status"], found["before"]["opset"]) == ("unchanged", 0)
    assert "two versions" in found["why"]


def test_metadata_say_what_was_done(tmp_path: Path) -> None:
    """Counts, rules, verification and hashes are those of the optimization."""
    found = saved(tmp_path)
    assert (found["before"]["nodes"], found["after"]["nodes"]) == (6, 2)
    assert found["after"]["types"] == {"activation": 1, "matrix multiplication": 1}
    assert found["decisions"]["rules"]["RaiseGelu"]["hits"] == 1
    assert found["decisions"]["rules"]["RaiseGelu"]["stage"] == "raise"
    assert (found["status"], found["verification"]["status"]) == ("verified", "verified")
    assert found["verification"]["probes"]
    assert len(found["source"]["sha256"]) == len(found["files"]["o.onnx"]["sha256"]) == 64
    assert found["settings"]["session_options"]["intra_op_num_threads"] == 2
    assert found["timings"] is None
    assert set(found["versions"]) >= {"ampc", "onnx", "onnxruntime"}


def test_equal_builds_have_equal_metadata(tmp_path: Path) -> None:
    """Two optimizations of one model are described by the same bytes: no times, no paths."""
    texts = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        saved(tmp_path / name)
        texts.append((tmp_path / name / "metadata.json").read_bytes())
    assert texts[0] == texts[1]
    assert str(tmp_path).encode() not in texts[0]


@pytest.mark.parametrize("damage", ["unknown", "missing", "wrong"])
def test_damaged_metadata_are_refused(tmp_path: Path, damage: str) -> None:
    """Reading refuses an unknown key, a missing one and a wrong type, as the schema does, and names the place."""
    found = copy.deepcopy(saved(tmp_path))
    if damage == "unknown":
        found["before"]["colour"] = "red"
    elif damage == "missing":
        del found["before"]["nodes"]
    else:
        found["before"]["nodes"] = "six"
    assert mistakes(found, published_schema(), published_schema())
    path = tmp_path / "damaged.json"
    path.write_text(json.dumps(found))
    with pytest.raises(InputError) as caught:
        read_metadata(path)
    assert "before" in caught.value.why


def test_metadata_are_typed() -> None:
    """Metadata cannot be changed after they were made."""
    assert Metadata.__struct_config__.frozen
    assert Metadata.__struct_config__.forbid_unknown_fields
