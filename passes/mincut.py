"""Minimum cut of a directed graph (Dinic's maximum flow)."""

from __future__ import annotations

from collections import deque

INFINITE = 1 << 60


class FlowNetwork:
    """Nodes are numbers given by `node`; 0 is the source, 1 the sink."""

    def __init__(self) -> None:
        self._edges: list[list[int]] = [[], []]
        self._head: list[int] = []
        self._room: list[int] = []

    def node(self) -> int:
        """A new node."""
        self._edges.append([])
        return len(self._edges) - 1

    def edge(self, a: int, b: int, capacity: int) -> None:
        """Cutting a (source side) from b (sink side) costs `capacity`."""
        for tail, head, room in ((a, b, capacity), (b, a, 0)):
            self._edges[tail].append(len(self._head))
            self._head.append(head)
            self._room.append(room)

    def source_side(self) -> list[bool]:
        """Which nodes lie on the source side of a minimum cut, of all such cuts the one with most nodes there."""
        while self._augment():
            pass
        reaches_sink = [False] * len(self._edges)
        reaches_sink[1] = True
        queue = deque([1])
        while queue:
            at = queue.popleft()
            for edge in self._edges[at]:
                tail = self._head[edge]
                if not reaches_sink[tail] and self._room[edge ^ 1] > 0:
                    reaches_sink[tail] = True
                    queue.append(tail)
        return [not r for r in reaches_sink]

    def _augment(self) -> bool:
        """Saturate all shortest paths; False when there is none."""
        level = [-1] * len(self._edges)
        level[0] = 0
        queue = deque([0])
        while queue:
            at = queue.popleft()
            for edge in self._edges[at]:
                if self._room[edge] > 0 and level[self._head[edge]] < 0:
                    level[self._head[edge]] = level[at] + 1
                    queue.append(self._head[edge])
        if level[1] < 0:
            return False
        position = [0] * len(self._edges)
        path: list[int] = []
        at = 0
        while True:
            if at == 1:
                flow = min(self._room[e] for e in path)
                for edge in path:
                    self._room[edge] -= flow
                    self._room[edge ^ 1] += flow
                path, at = [], 0
                continue
            edges = self._edges[at]
            while position[at] < len(edges):
                edge = edges[position[at]]
                if self._room[edge] > 0 and level[self._head[edge]] == level[at] + 1:
                    break
                position[at] += 1
            if position[at] < len(edges):
                path.append(edges[position[at]])
                at = self._head[edges[position[at]]]
            elif path:
                at = self._head[path.pop() ^ 1]
                position[at] += 1
            else:
                return True
