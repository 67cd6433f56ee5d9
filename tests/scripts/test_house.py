"""`scripts/house.py`: floors and circles of small houses, and that the real one is drawn."""

from __future__ import annotations

from scripts import house


def test_a_room_stands_above_all_that_it_imports() -> None:
    rooms = {
        "roof": frozenset({"wall", "floor"}),
        "wall": frozenset({"floor"}),
        "floor": frozenset[str](),
        "shed": frozenset[str](),
    }
    drawn = house.house_of(rooms)
    assert drawn.floors == [["floor", "shed"], ["wall"], ["roof"]]
    assert drawn.circles == []


def test_rooms_that_import_each_other_share_a_floor_and_are_told() -> None:
    rooms = {"a": frozenset({"b"}), "b": frozenset({"c"}), "c": frozenset({"b"}), "d": frozenset({"a"})}
    drawn = house.house_of(rooms)
    assert drawn.circles == [["b", "c"]]
    assert drawn.floors == [["b", "c"], ["a"], ["d"]]


def test_the_real_house_is_within_its_bounds() -> None:
    assert house.main() == 0
