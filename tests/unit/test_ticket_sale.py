"""The ticket sale's curves and its judge: each promise can be found broken."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.ticket_sale import judge
from benchmarks.ticket_sale.curves import backlog, curves, oldest, per_second
from benchmarks.ticket_sale.evidence import Partner, Play, Sale, read_sales, write_sales

ROOT = Path(__file__).parents[2]
SOLD = 10


def sale_to(*partners: str, seconds: float = 0.02) -> Play:
    """Ten orders, one every tenth of a second; the limited partner has got four, the one that was down six."""
    sales = [Sale(n, 100 + n, 50.0 + n / 10) for n in range(SOLD)]
    got = {judge.FINE: SOLD, judge.LIMITED: 4, judge.DOWN: 6}
    waited = {judge.FINE: seconds, judge.LIMITED: 0.5, judge.DOWN: 5.0}
    return Play(
        sales=sales,
        refused=1,
        stored=[(sale.order, sale.event) for sale in sales],
        partners={
            name: Partner(
                arrivals=[(sale.event, sale.at + waited[name]) for sale in sales[: got[name]]],
                delivered=[sale.event for sale in sales[: got[name]]],
                waiting=[sale.event for sale in sales[got[name] :]],
                failed=[50.1, 50.2] if name == judge.DOWN else [],
            )
            for name in partners
        },
        began=50.0,
        closed=50.9,
        back=52.0,
        until=60.0,
        cpu_seconds={"tills": 0.01},
    )


def with_changes(change: Callable[[Play], object]) -> bool:
    """Return whether the judge is content with a sale that has been changed like this."""
    among = sale_to(judge.FINE, judge.LIMITED, judge.DOWN)
    change(among)
    return judge.judge(SOLD, 1.0, among, sale_to(judge.FINE)).holds


def lose(play: Play) -> None:
    """Nobody has the last delivery of the limited partner."""
    play.partners[judge.LIMITED].waiting.pop()


def never_arrive(play: Play) -> None:
    """The database says delivered, and the log does not have it."""
    play.partners[judge.DOWN].arrivals.pop()


def be_slow(alone: Play) -> None:
    """The sale without the others had half of the pace."""
    alone.sales = [Sale(sale.order, sale.event, 50.0 + n / 5) for n, sale in enumerate(alone.sales)]
    alone.closed = alone.sales[-1].at


def be_behind(play: Play) -> None:
    """The last order still waits for the fine partner."""
    fine = play.partners[judge.FINE]
    fine.waiting.append(fine.delivered.pop())
    fine.arrivals.pop()


def hurry(play: Play) -> None:
    """Seven in a tenth of a second are one more than 50 a second, a tenth of a second's grace and a burst of one allow."""
    limited = play.partners[judge.LIMITED]
    events = [sale.event for sale in play.sales]
    limited.arrivals = [(event, 55.0 + n / 1000) for n, event in enumerate(events[:7])]
    limited.delivered, limited.waiting = events[:7], events[7:]


@pytest.mark.parametrize(
    "change",
    [
        lambda play: play.stored.pop(),
        lambda play: play.stored.append((None, 999)),
        lambda play: play.stored.append(play.stored[0]),
        lose,
        never_arrive,
        lambda play: play.partners[judge.FINE].arrivals.append((100, 59.0)),
        be_behind,
        hurry,
        lambda play: play.partners[judge.DOWN].failed.extend([51.0] * 99),
        lambda play: play.partners[judge.DOWN].failed.clear(),
    ],
    ids=["no event", "no order", "told twice", "lost", "not in the log", "duplicate", "behind", "too fast", "hammered", "well"],
)  # fmt: skip
def test_what_is_not_kept_is_found(change: Callable[[Play], object]) -> None:
    """Each promise alone can fail it."""
    assert [True, False] == [with_changes(lambda play: play), with_changes(change)]


@pytest.mark.parametrize(("seconds", "holds"), [(0.19, True), (0.21, False)])
def test_the_fine_partner_notices(seconds: float, *, holds: bool) -> None:
    """Twice what is taken to be unnoticed is the limit."""
    among = sale_to(judge.FINE, judge.LIMITED, judge.DOWN, seconds=seconds)
    assert holds == judge.judge(SOLD, 1.0, among, sale_to(judge.FINE)).holds


def test_sales_that_differ_are_not_compared() -> None:
    """What was sold at half of the pace says nothing of the sale to all."""
    alone = sale_to(judge.FINE)
    be_slow(alone)
    report = judge.judge(SOLD, 1.0, sale_to(judge.FINE, judge.LIMITED, judge.DOWN), alone)
    assert not report.holds
    assert ["NOT KEPT: the second sale is like the first"] == [note for note in report.notes if note.startswith("NOT KEPT")]


def test_a_report_says_how_many_were_sold() -> None:
    """Beside what was asked."""
    report = judge.judge(5 * SOLD, 1.0, sale_to(judge.FINE, judge.LIMITED, judge.DOWN), sale_to(judge.FINE))
    assert "asked 50 orders in 1 s: NOT reached, the shop sold 11 a second of 50" in report.notes
    assert "the limited partner's fullest second had 4 requests" in report.notes
    assert any(note.startswith("to all: sold 10 orders in 0.9 s") for note in report.notes)
    assert ["fine", "limited", "down", "fine"] == [row["partner"] for row in report.rows]
    assert [0, 6, 4, 0] == [row["waiting"] for row in report.rows]
    assert 9.6 == report.rows[1]["oldest_waiting_seconds"]


def test_curves() -> None:
    """What was sold and has not come, and how long the oldest of it has waited."""
    sold, arrived = [0.0, 1.0, 2.0], [5.0, 1.5, float("inf")]
    assert [1, 2, 1, 1] == backlog(sold, arrived, [0.5, 2.0, 5.0, 9.0])
    assert [0.5, 2.0, 3.0, 7.0] == oldest(sold, arrived, [0.5, 2.0, 5.0, 9.0])
    assert [0.0] == oldest([3.0], [4.0], [2.0])
    assert [2, 0, 2] == per_second([0.1, 0.9, 2.5, 3.5], 3)


def test_curves_of_a_sale() -> None:
    """They have a point a second, and end with what waits."""
    found = curves(sale_to(judge.FINE, judge.LIMITED, judge.DOWN))
    assert [10, *[0] * 9] == found["sold"]
    assert {"fine": 0, "limited": 6, "down": 4} == {name: one["backlog"][-1] for name, one in found["partners"].items()}
    assert {"fine": 0.0, "limited": 9.6, "down": 9.4} == {name: one["oldest"][-1] for name, one in found["partners"].items()}
    assert [0.1, 0.2] == found["partners"]["down"]["failed"]


def test_logs_of_tills_are_joined(tmp_path: Path) -> None:
    """In the order of their moments."""
    early, late = Sale(1, 12, 7.125), Sale(2, 11, 8.0)
    write_sales(tmp_path / "till-0", [late])
    write_sales(tmp_path / "till-1", [early])
    assert [early, late] == read_sales(tmp_path.glob("till-*"))


def test_the_page_shows_the_shops_own_code() -> None:
    """What docs/ticket-sale.md quotes is in the shop's sources, word for word."""
    (quoted,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs/ticket-sale.md").read_text(), re.MULTILINE | re.DOTALL)
    assert quoted.strip() in (ROOT / "benchmarks/ticket_sale/shop/sale.py").read_text()
