"""What a DSN says to us, and what is left of it for the driver."""

import pytest

from worker.store.database import connect

ADDRESS = "postgresql://me:s%3Fcret@h:6432/x"


@pytest.mark.parametrize(
    ("query", "left", "is_pooled"),
    [
        ("", "", False),
        ("?pgbouncer=true", "", True),
        ("?pgbouncer=false", "", False),
        ("?host=/run/pgbouncer&pgbouncer=true", "?host=/run/pgbouncer", True),
        ("?pgbouncer=true&sslmode=require&host=%2Frun", "?sslmode=require&host=%2Frun", True),
    ],
)
def test_a_dsn_says_whether_there_is_a_pool(query: str, left: str, *, is_pooled: bool) -> None:
    """`pgbouncer` is ours: no driver knows it; everything else reaches the driver as it was written."""
    database = connect(ADDRESS + query)
    assert (ADDRESS + left, is_pooled) == (vars(database)["_dsn"], database.is_pooled)
