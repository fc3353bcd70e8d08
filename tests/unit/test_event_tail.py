"""Following events by their ids: each is told once, whatever order they are committed in."""

from hypothesis import given
from hypothesis import strategies as st

from worker.core.tail import MISSING_MAX, MISSING_SECONDS_MAX, Tail


def look(tail: Tail, committed: set[int], now: float) -> list[int]:
    """Ask as the statement does: what is after the newest, and what was missing."""
    found = sorted(id_ for id_ in committed if id_ > tail.newest or id_ in tail.missing)
    tail.read(found, now)
    return found


def test_what_was_passed_over_is_asked_for_again() -> None:
    """Also after several looks; what was never there is asked for, too."""
    tail = Tail(10)
    assert [11, 14] == look(tail, {11, 14}, 0.0)
    assert [12, 13] == tail.missing
    assert [] == look(tail, {11, 14}, 1.0)
    assert [13] == look(tail, {11, 13, 14}, 2.0)
    assert [12] == tail.missing
    assert 14 == tail.newest


def test_what_is_missing_is_given_up_some_day() -> None:
    tail = Tail(0)
    look(tail, {3}, 0.0)
    look(tail, {3, 5}, 1.0)
    assert [1, 2, 4] == tail.missing
    look(tail, {3, 5}, MISSING_SECONDS_MAX)
    assert [4] == tail.missing


def test_a_jump_of_ids_costs_no_memory() -> None:
    """Of what was passed over, the newest are kept."""
    tail = Tail(0)
    look(tail, {2**62}, 0.0)
    assert MISSING_MAX == len(tail.missing) + 1
    look(tail, {2**62 + 3}, 0.0)
    assert [2**62 + 1, 2**62 + 2] == tail.missing[-2:]
    assert len(tail.missing) <= MISSING_MAX


@given(st.permutations(range(1, 30)), st.lists(st.integers(1, 28), max_size=10), st.sets(st.integers(1, 29)))
def test_each_id_is_told_once(order: list[int], cuts: list[int], rolled_back: set[int]) -> None:
    """In whatever order they are committed, and whenever somebody looks."""
    tail, told, committed = Tail(0), list[int](), set[int]()
    for n, id_ in enumerate(order):
        committed |= {id_} - rolled_back
        if n in cuts:
            told += look(tail, committed, float(n))
    told += look(tail, committed, 30.0)
    assert sorted(committed) == sorted(told)
