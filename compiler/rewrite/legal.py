"""Say whether a target runs a node: by the kernels of its execution provider, and by what is known beyond them.

The answer is for the model that will be emitted.  There a node has the form of the lowest opset that can say it (see
``backend.lower``), from the model's own opset on; a kernel matches by the version in which the operator was last
defined up to that opset, so ``Attention`` has a kernel in opset 24 and none in opset 25.

Operators without a kernel that the standard defines by others run too: ONNX Runtime replaces them by their definition
when it loads the model, before anything else.  They count as legal when the definition is; ``fused_by_function`` tells
them apart, since such a node is no faster than what it stands for.  For the same reason half-precision nodes that have
a kernel in single precision only run between casts, but not those that have a definition: that comes first.

Answers are kept by what they depend on (operator, form, element types), so that asking for each of 100,000 nodes costs
microseconds.  Considered and rejected: asking ONNX Runtime by loading a model of one node; that takes milliseconds, and
most restrictions show only when the node runs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple

from compiler.ir.dtype import DType
from compiler.ir.forms import Types, changed_meaning, fits, history, keeps_form, parts, standard
from compiler.ir.graph import Graph, Node, Value
from compiler.ir.schema import Schema, definition_of_all, is_known, node_schema
from compiler.rewrite import restrictions_attention, restrictions_fused
from compiler.rewrite.demands import Demands
from compiler.rewrite.restrictions import CPU, EVERY, violation
from targets.errors import TargetError
from targets.kernels import KernelTable, kernels
from targets.kernels_operators import Operator, operators
from targets.schema import Constraints

if TYPE_CHECKING:
    from compiler.ir.graph import Model

RESTRICTED_FAMILIES = (restrictions_attention, restrictions_fused)
"""Modules whose restrictions are in the table."""

ON_THE_HOST = ("XnnpackExecutionProvider", "DnnlExecutionProvider", "ACLExecutionProvider")
"""Providers that compute where the CPU provider does, with tensors that it can read: what they leave costs nothing."""

USUAL_OPSET = 18
"""The opset of a model of which nothing is said: what exporters write when nobody asks."""

MOVED_TO_INPUTS = frozenset(
    {
        "BatchNormalization",
        "Clip",
        "DFT",
        "Dropout",
        "GridSample",
        "Hardmax",
        "LogSoftmax",
        "Pad",
        "ReduceL1",
        "ReduceL2",
    }
    | {"ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "Resize"}
    | {"ReduceSumSquare", "RoiAlign", "ScatterElements", "Slice", "Softmax", "Split", "Squeeze", "TopK", "Unsqueeze"}
)
"""Operators that older opsets write otherwise; the backend finds the older form in nearly all cases."""

Bodies = Callable[[Node], "Model | str"]
"""Returns the definition of a node by other operators, or why there is none."""


class Legality:
    """Knows what one target runs; one for each model, since the model's opset counts.

    Calling it is ``why_not``.
    """

    def __init__(
        self,
        table: KernelTable | None,
        *,
        opset: int = 0,
        bodies: Bodies | None = None,
        contrib: Collection[str] | None = None,
        highest: int = 0,
        demands: Demands | None = None,
    ) -> None:
        """Take the kernels (``None``: everything is legal), the model's opset, and where definitions come from.

        ``contrib`` are the operators of ``com.microsoft`` that the target runs, if the kernels do not tell;
        ``highest`` is the highest opset that may be emitted, 0 for any; ``demands`` is what else is wanted of nodes.
        """
        self.table = table
        self.highest = highest
        self.opset = min(opset or USUAL_OPSET, highest or opset or USUAL_OPSET)
        self.bodies = bodies
        self.contrib = contrib
        self.demands = demands or None
        self._answers: dict[Any, _Answer] = {}
        self._definitions: dict[tuple[Graph, int], str] = {}
        self._others: dict[int, Legality] = {}

    @classmethod
    def of(cls, target: Any, *, opset: int = 0, bodies: Bodies | None = None, highest: int = 0) -> Legality:
        """Return the legality of a target: that of its first provider with a kernel table.

        ``highest`` is the highest opset that will be emitted without need, 0 for what the target says.

        A provider that computes where the CPU provider does is no more than an accelerator of some nodes: there the
        CPU provider's kernels count.  Where a provider without a table comes first, operators of ``com.microsoft``
        run only if the target says so: it would leave them to the others.
        """
        providers = [name for name, _ in target.runtime.providers] if target is not None else []
        if providers and providers[0] in ON_THE_HOST and CPU in providers:
            providers = [CPU]
        contrib = target.constraints.contrib if target is not None else None
        for name in providers:
            try:
                table = kernels(name)
            except TargetError:
                contrib = contrib or ()  # a provider of another build; what comes behind it is still known
                continue
            highest = highest or target.runtime.opset.highest or 0
            demands = Demands(name, target.constraints if name == providers[0] else Constraints())
            return cls(table, opset=opset, bodies=bodies, contrib=contrib, highest=highest, demands=demands)
        return cls(None, opset=opset, bodies=bodies)

    @classmethod
    def of_provider(cls, target: Any, name: str, *, opset: int) -> Legality:
        """Return the legality of one provider of a target alone; raises ``TargetError`` when nothing is known of it.

        The target's constraints are those of its first provider.
        """
        first = target.runtime.providers[0][0] == name
        constraints = target.constraints if first else Constraints()
        return cls(kernels(name), opset=opset, contrib=constraints.contrib, demands=Demands(name, constraints))

    @property
    def provider(self) -> str:
        """The execution provider that is asked, ``""`` when everything is legal."""
        return self.table.provider if self.table is not None else ""

    def __call__(self, node: Node) -> str:
        """Return ``why_not(node)``."""
        return self.why_not(node)

    def why_not(self, node: Node, *, proven: bool = True) -> str:
        """Return why the target does not run a node, ``""`` when it does.

        A shape that may or may not be what a kernel wants counts against the node, unless ``proven`` is false.
        """
        if self.table is None or not is_known(node):
            return ""
        reason = self._not_run(node, proven=proven)
        return reason or (self.demands.unmet(node, proven=proven) if self.demands else "")

    def _not_run(self, node: Node, *, proven: bool) -> str:
        """Return why no kernel runs a node rightly, nor its definition, ``""`` when one of them does."""
        answer = self._answer(node)
        reason = answer.reason
        if reason and answer.opset and self.provider == CPU:
            by_function = self._by_function(node, answer, proven=proven)
            if not by_function:
                return violation(node, EVERY, proven=proven)
            reason = f"{reason}, and its definition does not run: {by_function}" if answer.widened else ""
        return reason or violation(node, self.provider, proven=proven)

    def too_new(self, node: Node) -> bool:
        """Return whether no opset that may be emitted can say a node, so that it cannot stay on any provider."""
        if not self.highest or node.domain or not is_known(node):
            return False
        definition = self._definition(node)
        return definition is not None and definition.since_version > self.highest

    def on_the_host(self) -> Legality:
        """Return the legality of the CPU provider in the same opsets: what the target's first provider leaves."""
        return Legality(kernels(CPU), opset=self.opset, bodies=self.bodies, highest=self.highest)

    def fused_by_function(self, node: Node) -> bool:
        """Return whether a node runs only because ONNX Runtime replaces it by the standard's definition."""
        if self.table is None or not is_known(node):
            return False
        answer = self._answer(node)
        return answer.opset > 0 and not self._by_function(node, answer, proven=False)

    def _answer(self, node: Node) -> _Answer:
        """Return whether a kernel runs a node."""
        outputs = tuple([None if v.absent else v.dtype for v in node.outputs])
        key = (node.domain, node.op, node.version, *parts(node), _dtypes(node.inputs), outputs)
        found = self._answers.get(key)
        if found is None:
            found = self._answers[key] = self._find(node)
        return found

    def _find(self, node: Node) -> _Answer:
        assert self.table is not None
        if self.contrib is not None and (node.domain == "com.microsoft" or not (node.domain or history(node.op))):
            return _Answer("" if node.op in self.contrib else f"the target does not run {node.qualified}")
        definition = self._definition(node)
        since = definition.since_version if definition is not None else 1
        if self.highest and definition is not None and not node.domain and since > self.highest:
            return _Answer(f"{node.op} is of opset {since}, and the target takes at most {self.highest}")
        types = self._constraints(node, definition)
        if isinstance(types, str):
            return _Answer(types)
        found = self.table.supports(node.domain, node.op, since, types)
        wider = self.table.supports_through_float(node.domain, node.op, since, types)
        if found or definition is None or not definition.has_function:
            return _Answer(found.reason and wider.reason)
        return _Answer(found.reason, wider.reason, max(self.opset, since))

    def _definition(self, node: Node) -> Schema | None:
        """Return the definition that the node has in the lowest opset, from the model's on, that can say it."""
        if node.domain:
            return node_schema(node)
        for version in (self.opset, *(v for v in history(node.op) if v > self.opset)):
            if says(node, version):
                return standard(node.op, version)
        return standard(node.op, node.version)

    # Types ---------------------------------------------------------------------------------------

    def _constraints(self, node: Node, definition: Schema | None) -> dict[str, str] | str:
        """Return ONNX Runtime's names of types by type variable and by formal, or why a type is not allowed."""
        if definition is not None:
            found: dict[str, str] = {}
            for operands, formal in ((node.inputs, definition.formal_input), (node.outputs, definition.formal_output)):
                for i, value in enumerate(operands):
                    if (f := formal(i)) is not None and (text := type_text(value)):
                        found.setdefault(f.type_str, text)
                        found.setdefault(f.name, text)
            return found
        operator = operators().get((node.domain, node.op))
        return _runtime_constraints(node, operator) if operator is not None else {}

    # Definitions ---------------------------------------------------------------------------------

    def _by_function(self, node: Node, answer: _Answer, *, proven: bool) -> str:
        """Return why a node does not run by its definition, ``""`` when it does."""
        if self.provider != CPU:
            return "ONNX Runtime would run it elsewhere"
        if self.bodies is None:
            return ""
        body = self.bodies(node)
        if isinstance(body, str):
            return body if proven else ""  # the runtime will know types that are not known here
        key = body.graph, answer.opset
        if key not in self._definitions:
            self._definitions[key] = _why_not_replaced(node.op, answer.opset) or self._at(answer.opset).runs(body)
        return self._definitions[key]

    def runs(self, body: Model) -> str:
        """Return why a definition does not run, ``""`` when it does."""
        return next(filter(None, (self.why_not(n, proven=False) for n in body.graph.all_nodes())), "")

    def _at(self, opset: int) -> Legality:
        """Return the legality of a model of another opset."""
        if opset == self.opset:
            return self
        if opset not in self._others:
            other = Legality(
                self.table,
                opset=opset,
                bodies=self.bodies,
                contrib=self.contrib,
                highest=self.highest,
                demands=self.demands,
            )
            self._others[opset] = other
        return self._others[opset]


def _why_not_replaced(op: str, opset: int) -> str:
    """Return why ONNX Runtime does not replace an operator by its definition in a model of some opset.

    A definition that is one for all nodes must mean there what it meant when it was written: one that uses ``CastLike``
    of opset 24 is not used in a model of opset 25, where ``CastLike`` is another version.
    """
    definition = standard(op, opset)
    written, operators_used = (0, ()) if definition is None else definition_of_all(definition)
    for name in operators_used:
        then, now = standard(name, written), standard(name, opset)
        if then is None or now is None or then.since_version != now.since_version:
            return f"it was written for {name} of opset {written}, which is another in opset {opset}"
    return ""


class _Answer(NamedTuple):
    """Whether a kernel runs a node."""

    reason: str = ""
    """Why none does."""
    widened: str = ""
    """Why none does between casts to single precision either; asked only where there is a definition."""
    opset: int = 0
    """The opset in which its definition could run instead; 0 when that is not asked."""


def says(node: Node, version: int) -> bool:
    """Whether an opset version can say what a node says, as far as its form tells."""
    if version >= node.version:
        return keeps_form(node, node.version, version)
    if standard(node.op, version) is None:
        return False
    if node.op in MOVED_TO_INPUTS:
        return True
    return not changed_meaning(node.op, version, node.version) and fits(
        node.op, version, *parts(node), _dtypes(node.inputs)
    )


def _dtypes(operands: tuple[Value | None, ...]) -> Types:
    return tuple([v.dtype if v is not None else None for v in operands])


def _runtime_constraints(node: Node, operator: Operator) -> dict[str, str] | str:
    """Return the types by variable and formal of an operator that ONNX Runtime adds, or what its schema refuses."""
    found: dict[str, str] = {}
    for operands, formals in ((node.inputs, operator.inputs), (node.outputs, operator.outputs)):
        for i, value in enumerate(operands):
            text = type_text(value)
            if i >= len(formals) and not operator.variadic:
                continue
            name, kind = formals[min(i, len(formals) - 1)]
            if not text:
                continue
            allowed = operator.types.get(kind)
            if allowed is not None and text not in allowed:
                return f"{node.qualified} takes no {text} as {name}"
            found.setdefault(kind, text)
            found.setdefault(name, text)
    return found


_PREFIXES = (("bf", "bfloat"), ("f", "float"), ("i", "int"), ("u", "uint"), ("c", "complex"))
_SPECIAL = {DType.F32: "float", DType.F64: "double", DType.BOOL: "bool", DType.STRING: "string"}


def type_text(value: Value | None) -> str:
    """Return ONNX Runtime's name of a value's type (``tensor(float16)``), ``""`` when it has none or is unknown."""
    dtype = value.dtype if value is not None and not value.absent else DType.UNKNOWN
    return _TEXTS.get(dtype, "")


def _text_of(dtype: DType) -> str:
    if dtype in _SPECIAL:
        return _SPECIAL[dtype]
    short, long = next((s, w) for s, w in _PREFIXES if dtype.text.startswith(s))
    return long + dtype.text.removeprefix(short)


_TEXTS: dict[DType, str] = {d: f"tensor({_text_of(d)})" for d in DType if d is not DType.UNKNOWN}
