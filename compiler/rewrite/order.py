"""Positions of nodes in their graphs that survive insertion: who stands before whom, in constant time.

Every node of a graph has an integer label; a new one takes the middle between its neighbours', and the graph is
labelled anew when there is no room left.
"""

from __future__ import annotations

from compiler.ir.graph import Graph, Node

_GAP = 1 << 24


class Order:
    """Labels of the nodes of the graphs that were asked for."""

    def __init__(self) -> None:
        self._labels: dict[Node, int] = {}
        self._known: set[Graph] = set()

    def __contains__(self, node: Node) -> bool:
        return node in self._labels

    def label(self, node: Node) -> int:
        """Return the node's label, greater than those of the nodes before it in its graph."""
        found = self._labels.get(node)
        if found is None:
            assert node.graph is not None
            self._number(node.graph)
            found = self._labels[node]
        return found

    def _number(self, graph: Graph) -> None:
        self._known.add(graph)
        for i, node in enumerate(graph.nodes()):
            self._labels[node] = (i + 1) * _GAP

    def insert(self, node: Node) -> None:
        """Label a node that was put into its graph."""
        graph = node.graph
        assert graph is not None
        if graph not in self._known:
            return
        before = self._labels.get(node.previous) if node.previous is not None else 0
        after = self._labels.get(node.next) if node.next is not None else (before or 0) + 2 * _GAP
        if before is None or after is None or after - before < 2:
            self._number(graph)
        else:
            self._labels[node] = (before + after) // 2

    def move(self, node: Node) -> None:
        """Label a node anew that was moved within its graph."""
        self._labels.pop(node, None)
        self.insert(node)

    def forget(self, node: Node) -> None:
        """Drop the label of a node that was erased."""
        self._labels.pop(node, None)
