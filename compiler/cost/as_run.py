"""What ONNX Runtime makes of nodes when it loads the model, as far as it changes what they cost.

A node that the runtime folds into its neighbour costs nothing; a convolution that it moves into the blocked layout
costs what the blocked kernel takes; and a node between blocked convolutions that cannot work on blocks pays for
reordering its operands and, for the next convolution, its results. The conditions are those of the runtime's own
transformers (``nchwc_transformer.cc``, ``conv_activation_fusion.cc``, ``matmul_scale_fusion.cc``,
``matmul_transpose_fusion.cc``, ``skip_layer_norm_fusion.cc``, ``bias_gelu_fusion.cc``), simplified: what is not
certain counts as not done.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from compiler.cost.kinds import Kind
from compiler.ir.dtype import DType
from compiler.ir.facts import scalar_constant
from compiler.ir.graph import Node, Value
from compiler.ir.schema import operator_names

if TYPE_CHECKING:
    from targets import Target

_AFTER_CONV = operator_names("Relu Sigmoid Tanh LeakyRelu HardSigmoid Clip")
"""Functions that the runtime computes while it stores the results of a convolution."""

_AFTER_GEMM = operator_names("Relu Sigmoid Tanh LeakyRelu HardSigmoid")
"""Functions that the runtime fuses with a product by constant weights and a bias."""

_KEEP_BLOCKS = operator_names("""
        Relu Sigmoid Tanh HardSigmoid HardSwish Gelu QuickGelu Add Sum MaxPool AveragePool GlobalAveragePool
        GlobalMaxPool BatchNormalization Concat
""")
"""Operators that work on blocks as they do on anything else."""

_LOOK_BACK = 12
"""Nodes to look through for the convolution that a layout comes from."""


@dataclasses.dataclass(frozen=True, slots=True)
class End:
    """A result of a fragment and who will read it."""

    value: Value
    """The value, made by a node of the fragment."""
    users: tuple[Node, ...]
    """Nodes outside of the fragment."""


@dataclasses.dataclass(frozen=True, slots=True)
class AsRun:
    """Knows what the runtime makes of nodes on one target."""

    blocks: int
    """Channels of a block; 0 where there is no blocked layout."""

    @classmethod
    def on(cls, target: Target) -> AsRun:
        """Return what holds for a target: the runtime's CPU kernels block on x86 processors."""
        isa = set(target.machine.isa)
        if target.runtime.providers[0][0] != "CPUExecutionProvider":
            return cls(0)
        return cls(16 if "avx512f" in isa else 8 if isa & {"avx", "avx2", "sse4_1"} else 0)

    # Layout --------------------------------------------------------------------------------------

    def is_blocked(self, node: Node) -> bool:
        """True for a convolution that the runtime moves into the blocked layout."""
        if (
            not self.blocks
            or node.op not in ("Conv", "FusedConv")
            or node.output.dtype not in (DType.F32, DType.UNKNOWN)
        ):
            return False
        weights, bias = node.input(1), node.input(2)
        if weights is None or weights.constant is None or len(weights.constant.shape) != 4:
            return False
        if bias is not None and bias.constant is None:
            return False
        outward, inward, *_ = weights.constant.shape
        group = int(node.attr("group", 1))
        if group == 1:
            return inward < self.blocks or inward % 4 == 0
        depthwise = inward == 1 and outward == group
        whole = inward % self.blocks == 0 and (outward // group) % self.blocks == 0
        return outward % 4 == 0 and (depthwise or whole)

    def in_blocks(self, value: Value | None, depth: int = _LOOK_BACK) -> bool:
        """True when a value comes out of a blocked convolution and nothing has undone the layout since."""
        node = value.node if value is not None else None
        if node is None or depth == 0:
            return False
        if self.is_blocked(node):
            return True
        return self.keeps(node) and self.in_blocks(node.input(0), depth - 1)

    def keeps(self, node: Node) -> bool:
        """True for a node that works on blocks when its first operand is in them."""
        if node.op == "Mul":
            return self._scales_channels(node)
        if node.op == "Clip":
            return node.input(0) is not None and self._absorbed(node)
        return node.op in _KEEP_BLOCKS

    def _scales_channels(self, node: Node) -> bool:
        """True for the products that the runtime knows on blocks: by a constant for each channel, and hard swish."""
        left, right = node.input(0), node.input(1)
        if right is not None and right.constant is not None:
            return len(right.constant.shape) in (3, 4) and math.prod(right.constant.shape[-2:]) == 1
        gate = right.node if right is not None else None
        return gate is not None and gate.op in ("HardSigmoid", "Sigmoid") and gate.input(0) is left

    # Fusions -------------------------------------------------------------------------------------

    def is_free(self, node: Node) -> bool:
        """True for a node that costs nothing, since the runtime computes it once or inside of a neighbour."""
        operands = [v for v in node.inputs if v is not None]
        if operands and all(v.constant is not None for v in operands):
            return True
        return self._absorbed(node) or self._feeds_product(node) or _is_bias_of_gelu(node)

    def _absorbed(self, node: Node) -> bool:
        if node.op == "Add" and (self._added(node) or self._is_skip(node)):
            return True
        made = _sole(node.input(0))
        if made is None:
            return False
        if node.op in _AFTER_CONV and made.op in ("Conv", "FusedConv"):
            return made.attr("activation") is None
        if node.op in _AFTER_GEMM and made.op == "Gemm":
            return True
        return node.op == "BatchNormalization" and made.op == "Conv"

    def _is_skip(self, node: Node) -> bool:
        users = node.output.users()
        if node.output.is_output or len(users) != 1:
            return False
        return self._fused_with_before(users[0]) == "SkipLayerNormalization"

    def _added(self, node: Node) -> bool:
        """A bias goes into the product, an addend of the same shape into a blocked convolution."""
        for value, other in ((node.input(0), node.input(1)), (node.input(1), node.input(0))):
            made = _sole(value)
            if made is None or other is None or value is None:
                continue
            if made.op == "MatMul" and other.constant is not None and value.rank in (2, 3):
                return True
            if made.op == "Conv" and self.is_blocked(made) and value.type == other.type:
                return True
        return False

    def _feeds_product(self, node: Node) -> bool:
        """A transposition of the last two axes, or a scale, goes into the product that reads it."""
        users = node.output.users() if node.outputs else []
        if len(users) != 1 or node.output.is_output or users[0].op not in ("MatMul", "FusedMatMul"):
            return False
        product = users[0]
        weights = product.input(1)
        if node.op in ("Mul", "Div") and scalar_constant(node.input(1)) is not None:
            return True
        perm = node.attr("perm")
        if node.op != "Transpose" or perm is None or (weights is not None and weights.constant is not None):
            return False
        rank = len(perm)
        return tuple(perm) == (*range(rank - 2), rank - 1, rank - 2)

    # Kinds ---------------------------------------------------------------------------------------

    def kind(self, node: Node, written: Kind) -> Kind:
        """Return the kind of kernel that a node runs on, from that of the node as it is written."""
        if self.is_blocked(node):
            key = written.key.replace(":2d.", ":blocked.")
            weights = node.input(1)
            narrow = (
                weights is not None and weights.constant is not None and weights.constant.shape[1] < self.blocks // 2
            )
            return dataclasses.replace(written, key=key.replace("blocked.window", "blocked.first") if narrow else key)
        if written.key.endswith(":plain") and self.in_blocks(node.input(0)):
            return dataclasses.replace(written, key=written.key.replace(":plain", ":blocked"))
        fused = self._fused_with_before(node)
        if fused == "BiasGelu":
            return dataclasses.replace(written, key=f"BiasGelu:{written.key.split(':')[1]}:bias")
        return dataclasses.replace(written, key=written.key.replace(node.op, fused, 1)) if fused else written

    def _fused_with_before(self, node: Node) -> str:
        """Return the operator that a node becomes together with the ``Add`` before it."""
        made = _sole(node.input(0))
        if made is None or made.op != "Add" or node.domain:
            return ""
        if _is_bias_of_gelu(made):
            return "BiasGelu"
        skips = node.op == "LayerNormalization" and node.output.rank == 3
        return "SkipLayerNormalization" if skips and not any(v and v.constant for v in made.inputs) else ""

    def reorders(
        self, nodes: Sequence[Node], ends: Iterable[End], replaced: Iterable[Node] = ()
    ) -> list[tuple[str, Value]]:
        """Return the conversions of layout that nodes cause: operator and the value that is converted.

        A conversion that others need as well is not theirs; ``replaced`` are nodes that would be gone.
        """
        if not self.blocks:
            return []
        found: dict[tuple[str, Value], None] = {}
        inside = {*nodes, *replaced}
        for node in nodes:
            for value in node.inputs:
                self._edge(value, node, found)
        for end in ends:
            for user in end.users:
                if user not in inside:
                    self._edge(end.value, user, found)
        made = {o for n in nodes for o in n.outputs}
        return [(op, v) for op, v in found if v in made or not self._others_need(op, v, inside)]

    def _others_need(self, op: str, value: Value, inside: set[Node]) -> bool:
        """True when a node outside of a fragment needs the same conversion."""
        found: dict[tuple[str, Value], None] = {}
        for user in value.users():
            if user not in inside:
                self._edge(value, user, found)
        return (op, value) in found or (op == "ReorderOutput" and value.is_output)

    def _edge(self, value: Value | None, user: Node, found: dict[tuple[str, Value], None]) -> None:
        if value is None or value.constant is not None:
            return
        blocked, wanted = self.in_blocks(value), self.is_blocked(user)
        if blocked and not wanted and not (self.keeps(user) and self.in_blocks(user.input(0))):
            found["ReorderOutput", value] = None
        if wanted and not blocked and value is user.input(0) and not self._reads_plain(user):
            found["ReorderInput", value] = None

    def _reads_plain(self, node: Node) -> bool:
        weights = node.input(1)
        return weights is not None and weights.constant is not None and weights.constant.shape[1] < self.blocks


def _is_bias_of_gelu(node: Node) -> bool:
    """True for the sum of a vector that is part of the only ``Gelu`` which reads it."""
    users = node.output.users() if node.outputs else []
    if node.op != "Add" or len(users) != 1 or node.output.is_output:
        return False
    bias = node.input(1)
    exact = users[0].is_op("Gelu") and users[0].attr("approximate", "none") == "none"
    return exact and bias is not None and bias.constant is not None and len(bias.constant.shape) == 1


def _sole(value: Value | None) -> Node | None:
    """Return the node that makes a value when nobody else reads it; nodes that stand in no graph yet count as such."""
    if value is None or value.node is None or value.is_output:
        return None
    return value.node if value.node.graph is None or len(value.users()) <= 1 else None
