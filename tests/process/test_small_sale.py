"""A sale of `python -m benchmarks ticket-sale` in small: tills, workers and partners are real, and every account agrees."""

from importlib.util import find_spec
from pathlib import Path

import anyio
import pytest

from benchmarks.ticket_sale import judge
from benchmarks.ticket_sale.play import Plan, play
from benchmarks.ticket_sale.tills import make_tables

pytestmark = [
    pytest.mark.alone,
    pytest.mark.sql,
    pytest.mark.skipif(find_spec("django") is None, reason="the shop needs Django: make install"),
]

SMALL = Plan(orders=201, seconds=1.0, seconds_max=20.0, watched=1.0)


async def test_a_small_sale(dsn: str, tmp_path: Path) -> None:
    """All is kept but what takes longer: the partner that was down is not asked again within a second."""
    await anyio.to_thread.run_sync(make_tables, dsn)
    partners = (judge.FINE, judge.LIMITED, judge.DOWN)
    sale = await anyio.to_thread.run_sync(play, dsn, tmp_path / "small", SMALL, partners)
    assert (201, set(partners)) == (len(sale.sales), set(sale.partners))
    kept = judge.promises(sale, sale)
    assert ["the partner that was down is delivered to again"] == [promise for promise, holds in kept.items() if not holds]
