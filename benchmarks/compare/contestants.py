"""Who takes part. All sign the same 1 KiB of JSON and send it to a hundred paths of one receiver, 64 at once in a process."""

from dataclasses import replace

from benchmarks.compare.contestant import Contestant
from benchmarks.compare.plain import Bare, Go, Ours, Textbook
from benchmarks.compare.queues import Celery, Graphile, PgQueuer, Procrastinate
from benchmarks.stage import interpreters


def everybody() -> list[Contestant]:
    """Return those that this machine's runtimes allow, in the order of the table."""
    runtimes = list(interpreters())
    ours = Ours(runtimes[0])
    return [
        *(replace(ours, runtime=runtime, processes=processes) for runtime in runtimes for processes in (1, 2)),
        *(Bare(runtime) for runtime in runtimes),
        Go(),
        Graphile(),
        *(Textbook(runtime) for runtime in runtimes),
        Textbook("CPython", "aiohttp"),
        PgQueuer(),
        Procrastinate(),
        Celery(),
    ]
