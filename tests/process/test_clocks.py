"""Workers whose machine's wall clock is wrong, and jumps: the database's clock and monotonic time decide."""

import os
import time
from pathlib import Path

import anyio
import pytest
from fleet import Receiver, Worker, pythons, until
from stalls import Stalls
from standardwebhooks.webhooks import Webhook

from worker.core.audit import worst_excess
from worker.store.database import Database

pytestmark = pytest.mark.alone

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
RATE, BURST = 20, 2
SIGNATURE_SECONDS_MAX = 3


class WallClock:
    """What a process that is started with `environment` takes for the time, monotonic time left alone."""

    def __init__(self, file: Path, offset_seconds: int) -> None:
        self._file = file
        self.set(offset_seconds)
        self.environment = {
            "LD_PRELOAD": str(LIBRARY),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_seconds: int) -> None:
        """Step, forward or back."""
        beside = self._file.with_suffix(".new")
        beside.write_text(f"{offset_seconds:+d}")
        beside.rename(self._file)


async def time_there(clock: WallClock, python: str) -> float:
    done = await anyio.run_process([python, "-c", "import time; print(time.time())"], env={**os.environ, **clock.environment})
    return float(done.stdout)


@pytest.mark.sql
@pytest.mark.fault(56)
@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (apt-get install libfaketime)")
@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).parents[1].name)
async def test_a_wall_clock_that_jumps(dsn: str, database: Database, tmp_path: Path, stalls: Stalls, *, python: str) -> None:
    """An hour ahead, two hours back, home: signatures carry the database's time, the rate holds, no lease is lost or kept."""
    clock = WallClock(tmp_path / "clock", 3600)
    assert abs(await time_there(clock, python) - time.time() - 3600) < 60
    async with Receiver().listening() as receiver:
        row = (
            await database.rows(
                "select * from webhook.create_endpoint($1, settings => $2::text::jsonb)",
                receiver.url(), f'{{"rate": {RATE}, "burst": {BURST}}}',
            )
        )[0]  # fmt: skip
        await database.value(
            "select count(*) from webhook.enqueue_many(array_fill('t'::text, array[1000]), array_fill('{}'::text, array[1000]))"
        )
        with Worker(dsn, python=python, environment=clock.environment) as worker:
            for offset in (3600, -3600, 0):
                clock.set(offset)
                checked = len(receiver.arrivals)
                await until(lambda checked=checked: len(receiver.arrivals) >= checked + 2 * RATE)  # type: ignore[misc]
                lease = await database.value(
                    "select extract(epoch from max(lease_until) - clock_timestamp()) from webhook.claim_batch"
                )
                assert lease is None or 0 < lease <= 30
            worker.terminate()
            status, said = await worker.wait()
    assert status == 0, said
    assert "0 outcomes fenced off, 0 not recorded" in said
    times = sorted(arrival.at for arrival in receiver.arrivals)
    assert worst_excess(times, RATE, BURST) <= RATE * stalls.measured()
    assert times[-1] - times[0] < (len(times) - BURST) / RATE * 1.5 + 1  # nor did it stop at a jump
    for arrival in receiver.arrivals:
        Webhook(row["key"]).verify(arrival.body, arrival.headers)
        age = arrival.at + time.time() - time.monotonic() - int(arrival.headers["webhook-timestamp"])
        assert -SIGNATURE_SECONDS_MAX < age < SIGNATURE_SECONDS_MAX
    assert {"ok"} == {row["outcome"] for row in await database.rows("select distinct outcome from webhook.attempts")}
    assert 0 == await database.value("select count(*) from webhook.claim_batch")
