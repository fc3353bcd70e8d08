"""PyPy compiles for as long as it runs, rare branches too in the end, and keeps what that takes: some 8 MB for each MB of code.

What most deliveries take is compiled within the first of them. From then on only what is as hot as that is worth it, so that
memory stays what it is (docs/adr/0016). The counts by which PyPy decides fade with each small collection: what happens a few
times a second never gets there.
"""

import sys
from collections.abc import Callable

import anyio

WARM_DELIVERIES = 200_000
LOOK_SECONDS = 5.0
FROM_THEN_ON = "threshold=20000,function_threshold=30000,trace_eagerness=4000"
"""Twenty times what PyPy has by itself (https://doc.pypy.org/en/latest/jit_help.html)."""


async def settle_compiler(claimed: Callable[[], int]) -> None:
    """On PyPy, make the compiler choosy when this process has claimed so many deliveries that it is warm."""
    if sys.implementation.name != "pypy":
        return
    import pypyjit

    while claimed() < WARM_DELIVERIES:  # noqa: ASYNC110 - a count is read, not one more thing told for each delivery
        await anyio.sleep(LOOK_SECONDS)
    pypyjit.set_param(FROM_THEN_ON)
