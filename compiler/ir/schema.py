"""Operator schemas: what the ONNX standard says of an operator, and what is known of operators beyond it.

This is the only module of ``compiler.ir`` that knows of ``onnx``, and it imports it when the first schema is
asked for.  Schemas are looked up one by one (4 µs) and kept: reading all of them takes longer than most
models need.

Decisions:

* Operators that ONNX Runtime adds are known by name only, enough to say that they compute a function of their
  inputs. Asking ONNX Runtime for their schemas would mean importing it in the compiling process.
* An operator of an unknown domain is *opaque*: never folded, never merged, never moved.  A dead one may be
  removed, as ONNX Runtime itself does when it loads the model.
* A node of version 0 means the newest version.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from compiler.ir.constant import Constant
from compiler.ir.dtype import DType
from compiler.ir.graph import Node

Option = Literal["single", "optional", "variadic"]

NEWEST_KNOWN = 1 << 30
"""A version above every opset, which means the newest one."""


def operator_names(names: str) -> dict[str, None]:
    """Return operator names that stand in a text, in order; made for long lists."""
    return dict.fromkeys(names.split())


@dataclass(frozen=True, slots=True)
class Formal:
    """A formal input or output of an operator."""

    name: str
    """Name in the operator's specification."""
    type_str: str
    """Type variable such as ``T``, or a concrete type such as ``tensor(int64)``."""
    option: Option
    """Whether it must be there, may be there, or stands for any number."""
    homogeneous: bool
    """True when all operands of a variadic formal have one type."""
    min_arity: int
    """Least number of operands that a variadic formal stands for."""


@dataclass(frozen=True, slots=True)
class AttributeSpec:
    """A formal attribute of an operator."""

    name: str
    """Name in the operator's specification."""
    kind: str
    """Kind as in ``Attr.kind``."""
    required: bool
    """True when a node must set it."""
    default: Any
    """Plain value as in ``Attr.value``, ``None`` when there is no default."""


@dataclass(frozen=True, slots=True)
class Schema:
    """The definition of one version of an operator."""

    domain: str
    """Domain, ``""`` for the default one."""
    name: str
    """Operator name."""
    since_version: int
    """First opset version that has this definition."""
    inputs: tuple[Formal, ...]
    """Formal inputs in order; only the last may be variadic."""
    outputs: tuple[Formal, ...]
    """Formal outputs in order; only the last may be variadic."""
    min_input: int
    """Least number of inputs."""
    max_input: int
    """Greatest number of inputs; very large for variadic operators."""
    min_output: int
    """Least number of outputs."""
    max_output: int
    """Greatest number of outputs; very large for variadic operators."""
    attributes: Mapping[str, AttributeSpec]
    """Attributes by name."""
    constraints: Mapping[str, frozenset[DType]]
    """Element types of dense tensors that each type variable allows."""
    deterministic: bool
    """False when two evaluations may differ."""
    has_function: bool
    """True when the standard defines the operator by others."""
    deprecated: bool
    """True when the operator was withdrawn in this version."""
    source: Any = field(repr=False, compare=False)
    """The ``onnx.defs.OpSchema``."""

    def formal_input(self, index: int) -> Formal | None:
        """Return the formal of an operand, the variadic one for operands beyond it."""
        return _formal(self.inputs, index)

    def formal_output(self, index: int) -> Formal | None:
        """Return the formal of a result, the variadic one for results beyond it."""
        return _formal(self.outputs, index)

    def allowed(self, formal: Formal) -> frozenset[DType]:
        """Return the element types that a formal allows when it is a dense tensor."""
        return self.constraints.get(formal.type_str) or _tensor_dtypes([formal.type_str])


def _formal(formals: tuple[Formal, ...], index: int) -> Formal | None:
    if index < len(formals):
        return formals[index]
    return formals[-1] if formals and formals[-1].option == "variadic" else None


@functools.cache
def schema(domain: str, op: str, version: int) -> Schema | None:
    """Return the definition that an operator has in an opset version, ``None`` when the standard has none."""
    import onnx.defs

    if "\0" in op or "\0" in domain:
        return None
    try:
        found = onnx.defs.get_schema(op, version if 0 < version < NEWEST_KNOWN else NEWEST_KNOWN, _domain(domain))
    except (onnx.defs.SchemaError, UnicodeError, TypeError):
        return None
    return _convert(found)


def _domain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


@functools.cache
def _element_types() -> Mapping[str, DType]:
    """Map texts such as ``tensor(float)`` to element types."""
    import onnx

    names = onnx.TensorProto.DataType.items()
    return {f"tensor({name.lower()})": DType.from_code(code) for name, code in names if code}


def _tensor_dtypes(texts: list[str]) -> frozenset[DType]:
    known = _element_types()
    return frozenset(known[t] for t in texts if t in known)


def _convert(found: Any) -> Schema:
    import onnx.defs

    may_differ = found.node_determinism == onnx.defs.OpSchema.NodeDeterminism.NonDeterministic
    return Schema(
        domain=found.domain,
        name=found.name,
        since_version=found.since_version,
        inputs=tuple(_convert_formal(f) for f in found.inputs),
        outputs=tuple(_convert_formal(f) for f in found.outputs),
        min_input=found.min_input,
        max_input=found.max_input,
        min_output=found.min_output,
        max_output=found.max_output,
        attributes={a.name: _convert_attribute(a) for a in found.attributes.values()},
        constraints={c.type_param_str: _tensor_dtypes(c.allowed_type_strs) for c in found.type_constraints},
        deterministic=not may_differ or found.name in _CALLED_RANDOM,
        has_function=found.has_function or found.has_context_dependent_function,
        deprecated=found.deprecated,
        source=found,
    )


_CALLED_RANDOM = frozenset({"If", "Loop", "Scan", "SequenceMap", "AffineGrid"})
"""Operators that the standard calls nondeterministic only because nested graphs (or function bodies) may be."""


def _convert_formal(found: Any) -> Formal:
    option: Option = ("single", "optional", "variadic")[found.option.value]
    return Formal(found.name, found.type_str, option, found.is_homogeneous, found.min_arity)


def _convert_attribute(found: Any) -> AttributeSpec:
    kind = _ATTRIBUTE_KINDS.get(found.type.name, found.type.name.lower())
    return AttributeSpec(found.name, kind, found.required, _default(found.default_value))


_ATTRIBUTE_KINDS = {
    "TYPE_PROTO": "type",
    "TYPE_PROTOS": "types",
    "SPARSE_TENSOR": "sparse",
    "SPARSE_TENSORS": "sparses",
}


def _default(proto: Any) -> Any:
    """Return the plain value of a schema's default, ``None`` when there is none."""
    import onnx

    kind = onnx.AttributeProto.AttributeType
    if proto.type == kind.TENSOR:
        return Constant.from_array(onnx.numpy_helper.to_array(proto.t))
    if proto.type in (kind.INT, kind.FLOAT):
        return onnx.helper.get_attribute_value(proto)
    if proto.type == kind.STRING:
        return proto.s.decode()
    if proto.type in (kind.INTS, kind.FLOATS):
        return tuple(onnx.helper.get_attribute_value(proto))
    if proto.type == kind.STRINGS:
        return tuple(s.decode() for s in proto.strings)
    return None


def node_schema(node: Node) -> Schema | None:
    """Return the definition that gives a node its meaning, ``None`` for operators beyond the standard."""
    return schema(node.domain, node.op, node.version)


def attribute(node: Node, name: str) -> Any:
    """Return an attribute's plain value, or the schema's default when the node does not set it."""
    found = node.attributes.get(name)
    if found is not None:
        return found.value
    definition = node_schema(node)
    spec = definition.attributes.get(name) if definition is not None else None
    return None if spec is None else spec.default


def definition_of_all(found: Schema) -> tuple[int, tuple[str, ...]]:
    """Return the opset and the operators of a definition that is one for all nodes; ``(0, ())`` where it is not."""
    if not found.source.has_function:
        return 0, ()
    body = found.source.function_body
    opset = next((int(o.version) for o in body.opset_import if not o.domain), found.since_version)
    return opset, tuple(n.op_type for n in body.node if not n.domain)


def since_version(node: Node) -> int:
    """Return the version in which the node's definition appeared, 0 for operators beyond the standard."""
    definition = node_schema(node)
    return 0 if definition is None else definition.since_version


RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial", "Bernoulli"}
)
"""Operators of the default domain that draw random numbers."""

_MICROSOFT_RANDOM = frozenset({"BiasDropout", "BitmaskBiasDropout", "BitmaskDropout", "Sampling"})

_MICROSOFT_PURE = operator_names("""
        Attention AttnLSTM BeamSearch BiasAdd BiasGelu BiasSoftmax BiasSplitGelu BifurcationDetector
        BranchwiseRMSNorm CDist CausalConvWithState ComplexMul ComplexMulConj
        ConvTransposeWithDynamicPads CropAndResize DecoderAttention DecoderMaskedMultiHeadAttention
        DecoderMaskedSelfAttention DequantizeBFP DequantizeLinear DequantizeWithOrder
        DynamicQuantizeLSTM DynamicQuantizeMatMul DynamicTimeWarping EmbedLayerNormalization ExpandDims
        FastGelu FusedConv FusedGemm FusedMatMul FusedMatMulActivation GatedAdd GatedRMSNorm
        GatedRelativePositionBias GatherBlockQuantized GatherND Gelu GemmFastGelu GemmFloat8
        GemmaRotaryEmbedding GreedySearch GridSample GroupNorm GroupQueryAttention Inverse Irfft
        IsAllFinite LinearAttention LinearAttentionGate LongformerAttention MRotaryEmbedding MatMulBnb4
        MatMulFpQ4 MatMulInteger16 MatMulIntegerToFloat MatMulNBits MatMulNBitsMlp MatMulNBitsQkv
        MaxpoolWithMask MoE MulInteger MultiHeadAttention MurmurHash3 NGramRepeatBlock NhwcConv
        NhwcFusedConv NhwcMaxPool PackedAttention PackedMultiHeadAttention Pad QAttention
        QEmbedLayerNormalization QGemm QLinearAdd QLinearAveragePool QLinearConcat QLinearConv
        QLinearGlobalAveragePool QLinearLeakyRelu QLinearMul QLinearReduceMean QLinearSigmoid
        QLinearSoftmax QLinearWhere QMoE QOrderedAttention QOrderedGelu QOrderedLayerNormalization
        QOrderedLongformerAttention QOrderedMatMul QuantizeBFP QuantizeLinear QuantizeWithOrder
        QuickGelu RMSNormRotary Range ReduceSumInteger RelativePositionBias RemovePadding RestorePadding
        Rfft RotaryEmbedding SampleOp ScaledSiLU SkipGroupNorm SkipLayerNormalization
        SkipSimplifiedLayerNormalization SparseAttention SparseToDenseMatMul SwiGLU Tokenizer
        TorchEmbedding TransposeMatMul Trilu UnfoldTensor Unique WordConvEmbedding
""")

_RUNTIME_PURE = {
    "": operator_names("""
            Affine Crop DynamicSlice GRUUnit GivenTensorFill ImageScaler MemcpyFromHost MemcpyToHost
            ParametricSoftplus Scale ScaledTanh SimplifiedLayerNormalization
"""),
    "com.microsoft": _MICROSOFT_PURE,
    "com.microsoft.nchwc": operator_names("""
            AveragePool Conv GlobalAveragePool GlobalMaxPool MaxPool ReorderInput ReorderOutput Upsample
"""),
    "com.ms.internal.nhwc": operator_names("""
            AveragePool BatchNormalization Conv ConvTranspose DepthToSpace GlobalAveragePool
            GlobalLpPool GlobalMaxPool GridSample InstanceNormalization LRN LpPool MaxPool MaxUnpool
            QLinearAveragePool QLinearConv QLinearConvTranspose Resize SpaceToDepth
"""),
}
"""Operators of ONNX Runtime, beyond the standard, that are functions of their inputs.

Left out on purpose: operators that write into their inputs (paged attention and caches shared by buffer),
those whose result depends on files or devices (``EPContext``, ``Snpe``), and random ones.
"""

_STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})


def is_random(node: Node) -> bool:
    """True when the node itself (not what is nested in it) may give different results for the same operands."""
    domain = _domain(node.domain)
    if domain == "com.microsoft":
        return node.op in _MICROSOFT_RANDOM or node.op in RANDOM
    if domain:
        return False
    return _is_training_dropout(node) if node.op == "Dropout" else node.op in RANDOM


def _is_training_dropout(node: Node) -> bool:
    """True unless the node certainly runs in inference mode, whose output is the input."""
    if 0 < node.version < 7:
        return not node.attr("is_test", 0)
    mode = node.input(2)
    if 0 < node.version < 12 or mode is None:
        return False
    array = mode.array()
    return array is None or bool(np.any(array))


@functools.cache
def _is_known_pure(domain: str, op: str, version: int) -> bool:
    if op in _RUNTIME_PURE.get(domain, ()):
        return True
    if domain not in _STANDARD_DOMAINS:
        return False
    found = schema(domain, op, version)
    return found is not None and not found.deprecated and (found.deterministic or op == "Dropout")


def is_runtime_operator(domain: str, op: str) -> bool:
    """True for an operator that ONNX Runtime adds to the standard, as far as it is known by name."""
    return op in _RUNTIME_PURE.get(_domain(domain), ()) or (domain == "com.microsoft" and op in _MICROSOFT_RANDOM)


def is_known(node: Node) -> bool:
    """True when the operator is one of the standard or a known one of ONNX Runtime; others are opaque."""
    domain = _domain(node.domain)
    known = _is_known_pure(domain, node.op, node.version) or schema(domain, node.op, node.version) is not None
    return known or (domain == "com.microsoft" and (node.op in _MICROSOFT_RANDOM or node.op in RANDOM))


def is_pure(node: Node) -> bool:
    """True when the node, with all that is nested in it, is known to be a function of its operands and nothing else."""
    if not _is_known_pure(_domain(node.domain), node.op, node.version) or is_random(node):
        return False
    if not node.attributes:
        return True
    nested = (n for g in node.graphs() for n in g.all_nodes())
    return all(_is_known_pure(_domain(n.domain), n.op, n.version) and not is_random(n) for n in nested)
