"""`python -m scripts.house`: how the package is built, from its imports: rooms, floors, circles.

A room is a file or package directly below its parent. A room stands one floor above the highest room that it imports.
A circle is a set of rooms that import each other. Imports for type checkers count as all others do.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import grimp

PACKAGE = "canister"
MAX_ROOMS = 26
MAX_FLOORS = 10

Arrows = Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class House:
    """rooms: by name, the rooms that each imports. floors: rooms by floor, the ground first. circles: see above."""

    rooms: Arrows
    floors: list[list[str]]
    circles: list[list[str]]


def main() -> int:
    graph = grimp.build_graph(PACKAGE, exclude_type_checking_imports=False)
    whole = house_of(rooms_of(graph, PACKAGE))
    n_arrows = sum(map(len, whole.rooms.values()))
    bounds = f"rooms {len(whole.rooms)} (at most {MAX_ROOMS}), floors {len(whole.floors)} (at most {MAX_FLOORS})"
    print(f"{bounds}, arrows {n_arrows}, circles {len(whole.circles)}")
    for number, rooms in reversed(list(enumerate(whole.floors, 1))):
        print(f"floor {number:2}  {'  '.join(rooms)}")
    circles = [(PACKAGE, circle) for circle in whole.circles]
    for package in sorted(module for module in graph.modules if graph.find_children(module) and module != PACKAGE):
        circles += [(package, circle) for circle in house_of(rooms_of(graph, package)).circles]
    for package, circle in circles:
        print(f"circle in {package}: {' ↔ '.join(circle)}")
    return 1 if circles or len(whole.rooms) > MAX_ROOMS or len(whole.floors) > MAX_FLOORS else 0


def rooms_of(graph: grimp.ImportGraph, package: str) -> Arrows:
    """Rooms of a package and what they import of each other; the package's own file is the face of its rooms."""
    rooms = {module: graph.find_descendants(module) | {module} for module in graph.find_children(package)}
    owner = {module: room for room, modules in rooms.items() for module in modules}
    arrows = {
        room: {owner[target] for module in modules for target in _imported_by(graph, module) if target in owner}
        for room, modules in rooms.items()
    }
    return {_name(room): frozenset(map(_name, targets - {room})) for room, targets in arrows.items()}


def _imported_by(graph: grimp.ImportGraph, module: str) -> set[str]:
    return graph.find_modules_directly_imported_by(module)


def house_of(rooms: Arrows) -> House:
    """Floors and circles; the rooms of a circle share a floor."""
    circles = _circles(rooms)
    group = {room: frozenset(circle) for circle in circles for room in circle}
    floor: dict[str, int] = {}

    def floor_of(room: str) -> int:
        if room not in floor:
            together = group.get(room, frozenset({room}))
            below = {target for member in together for target in rooms[member]} - together
            height = 1 + max(map(floor_of, below), default=0)
            floor.update(dict.fromkeys(together, height))
        return floor[room]

    for room in rooms:
        floor_of(room)
    heights = range(1, max(floor.values(), default=0) + 1)
    floors = [sorted(room for room in rooms if floor[room] == height) for height in heights]
    return House(rooms, floors, circles)


def _circles(rooms: Arrows) -> list[list[str]]:
    reached = {room: _reached(rooms, rooms[room]) for room in rooms}
    found = {frozenset({other for other in reached[room] if room in reached[other]} | {room}) for room in rooms}
    return sorted(sorted(circle) for circle in found if len(circle) > 1)


def _reached(rooms: Arrows, start: Iterable[str]) -> set[str]:
    seen: set[str] = set()
    waiting = list(start)
    while waiting:
        room = waiting.pop()
        if room not in seen:
            seen.add(room)
            waiting.extend(rooms[room])
    return seen


def _name(module: str) -> str:
    return module.rpartition(".")[2]


if __name__ == "__main__":
    sys.exit(main())
