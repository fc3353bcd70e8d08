"""What `dev` takes for an endpoint's defaults is what the database takes for them."""

import pytest

from worker.dev.endpoints_file import DEFAULTS, _differs
from worker.endpoints import Endpoints


@pytest.mark.sql
async def test_a_line_that_says_nothing_means_the_defaults(dsn: str) -> None:
    """Else it would be changed each time it is looked at. What is different is seen."""
    async with Endpoints(dsn, actor="test") as endpoints:
        made = await endpoints.create("https://example.com/hook")
        one = await endpoints.get(made.id)
    assert not _differs(one, DEFAULTS)
    assert [True, True, True] == [
        _differs(one, {**DEFAULTS, "rate": 5}),
        _differs(one, {**DEFAULTS, "event_types": ["order.*"]}),
        _differs(one, {**DEFAULTS, "retry": "5s"}),
    ]
