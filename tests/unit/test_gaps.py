"""Following events by their ids: each is told once, whatever order they are committed in."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core import tail as tail_module
from worker.core.tail import GAPS_MAX, LAST_ID, Snapshot, Tail

BULK = 5000


@dataclass
class Transaction:
    """It has an id of its own once it has written."""

    ids: range
    xid: int | None


class World:
    """Transactions that draw events' ids, and end; and somebody who looks, and is shown at most so many rows."""

    def __init__(self, rows_max: int = 1000) -> None:
        self.tail, self.rows_max = Tail(0), rows_max
        self.open: list[Transaction] = []
        self.committed, self.told = set[int](), list[int]()
        self.next_id = self.next_xid = self.xmax = 1

    def begin(self, ids: int, *, has_written: bool = True) -> Transaction:
        begun = Transaction(range(self.next_id, self.next_id + ids), None)
        self.next_id += ids
        self.open.append(begun)
        if has_written:
            self.write(begun)
        return begun

    def write(self, transaction: Transaction) -> None:
        if transaction.xid is None:
            transaction.xid, self.next_xid = self.next_xid, self.next_xid + 1

    def end(self, transaction: Transaction, *, commit: bool = True) -> None:
        self.open.remove(transaction)
        self.write(transaction)
        self.xmax = max(self.xmax, (transaction.xid or 0) + 1)
        if commit:
            self.committed |= set(transaction.ids)

    def look(self, *, gaps: bool = True) -> list[int]:
        """Ask as the statement does. Until the next look, who has drawn an id has written, too."""
        asked = [*(self.tail.gaps if gaps else []), self.tail.to_come]
        there = sorted(id_ for id_ in self.committed if any(first <= id_ <= last for first, last in asked))
        found = there[: self.rows_max]
        through = LAST_ID if found == there else found[-1]
        xmin = min([self.xmax, *(transaction.xid for transaction in self.open if transaction.xid)])
        self.tail.read(found, Snapshot(xmin, self.xmax), through if gaps else 0)
        for transaction in self.open:
            self.write(transaction)
        self.told += found
        return found


def test_what_was_passed_over_is_asked_for_again() -> None:
    """Also after several looks, for as long as its transaction is open."""
    world = World()
    first, second = world.begin(2), world.begin(1)
    world.end(world.begin(1))
    assert [4] == world.look()
    assert [(1, 3)] == world.tail.gaps
    world.end(second)
    assert [3] == world.look()
    for _ in range(10):
        assert [] == world.look()
    assert [(1, 2)] == world.tail.gaps
    assert (5, LAST_ID) == world.tail.to_come
    world.end(first)
    assert [1, 2] == world.look()
    assert [] == world.tail.gaps


def test_what_cannot_come_is_not_asked_for() -> None:
    """Of a rollback, once all have ended that were open then, and some that came after them."""
    world = World()
    older = world.begin(1)
    world.end(world.begin(1), commit=False)
    world.end(world.begin(1))
    for _ in range(10):
        world.end(world.begin(1))
        world.look()
    assert [(1, 2)] == world.tail.gaps
    world.end(older, commit=False)
    for _ in range(5):
        assert [(1, 2)] == world.tail.gaps
        world.look()
        world.end(world.begin(1))
    assert [] == world.tail.gaps


def test_who_has_drawn_an_id_and_written_nothing_counts_as_open() -> None:
    """Its transaction has no id yet, and then a later one than others that no snapshot shows, and that end before it."""
    world = World()
    late = world.begin(1, has_written=False)
    world.end(world.begin(1))
    assert [2] == world.look()
    others = [world.begin(1) for _ in range(3)]
    for nth, transaction in enumerate([*others, late], late.xid or 0):
        transaction.xid = nth
    for other in others:
        world.end(other)
        assert [other.ids[0]] == world.look()
        for _ in range(5):
            assert [] == world.look()
    world.end(late)
    assert [1] == world.look()


def test_a_bulk_that_is_committed_late_is_one_gap() -> None:
    """However many events it has: it is shown in several looks, and is not given up between them."""
    world = World()
    bulk = world.begin(BULK)
    world.end(world.begin(1))
    assert [BULK + 1] == world.look()
    assert [(1, BULK)] == world.tail.gaps
    world.end(bulk)
    assert list(bulk.ids) == [id_ for _ in range(BULK // world.rows_max) for id_ in world.look()]
    assert [] == world.look()


def test_the_last_thousand_gaps_are_kept() -> None:
    """However far the ids jump, that bounds what is remembered, and what a look asks for."""
    world = World()
    late = world.begin(1)
    for _ in range(GAPS_MAX):
        world.end(world.begin(2**40), commit=False)
        world.end(world.begin(1))
    world.look()
    (first, *others) = world.tail.gaps
    assert (1, GAPS_MAX - 1) == (first[0], len(others))
    world.begin(1)
    world.end(world.begin(1))
    world.look()
    assert others == world.tail.gaps[:-1]
    world.end(late)
    assert [] == world.look()


OPEN_MAX = 4
STEPS = st.lists(
    st.tuples(st.sampled_from(["begin", "begin unwritten", "commit", "roll back", "look", "look ahead"]), st.integers(0, 3))
)


def play(world: World, steps: list[tuple[str, int]]) -> None:
    """Do what the steps say, end what is open then, and look until there is nothing more."""
    for step, n in steps:
        if step.startswith("begin") and len(world.open) < OPEN_MAX:
            world.begin(n + 1, has_written=step == "begin")
        elif step.startswith("look"):
            world.look(gaps=step == "look")
        elif world.open:
            world.end(world.open[n % len(world.open)], commit=step == "commit")
    while world.open:
        world.end(world.open[0])
    while world.look():
        pass


@given(STEPS, st.integers(1, 12))
def test_each_event_is_told_once(steps: list[tuple[str, int]], rows_max: int) -> None:
    """In whatever order they are committed, whenever somebody looks, and however little is shown at once."""
    world = World(rows_max)
    play(world, steps)
    assert sorted(world.committed) == sorted(world.told)


@given(STEPS, st.integers(1, 12), st.integers(1, 3))
def test_beyond_the_bound_none_is_told_twice(steps: list[tuple[str, int]], rows_max: int, gaps_max: int) -> None:
    """What is forgotten is what was passed over first."""
    world = World(rows_max)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tail_module, "GAPS_MAX", gaps_max)
        play(world, steps)
    assert len(world.tail.gaps) <= gaps_max
    assert len(world.told) == len(set(world.told))
    assert set(world.told) <= world.committed
