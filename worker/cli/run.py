"""`webhook-worker run`: argparse, not typer, so that a worker process starts at once."""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

from worker.core.backoff import parse_duration
from worker.settings import ConfigurationError, ExitCode, GuardRails, Settings, read_retention, without_password

DEFAULT_CONCURRENCY = 64
CONCURRENCY_MAX = 10_000
RETAINED = {
    "events": "events, except what an unfinished delivery needs,",
    "deliveries": "finished deliveries",
    "attempts": "attempts",
    "idempotency_keys": "idempotency keys",
}
DEFAULT_SLOW_SHARE = 0.5


def main(argv: Sequence[str]) -> int:
    """Run a worker until SIGTERM, or with --once until nothing is due; return the exit status."""
    # Nothing is claimed yet: nothing to drain. At once, since an exception may be swallowed by whatever the signal interrupts.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(ExitCode.OK))
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = Settings.load(
            database_url=arguments.database_url,
            guards=GuardRails(arguments.allow_network, arguments.deny_network, arguments.allow_port, arguments.allow_http),
            transports=arguments.transports,
        )
        retention = read_retention({name: getattr(arguments, f"retain_{name}") for name in RETAINED})
    except ConfigurationError as error:
        return _failed(error, ExitCode.CONFIGURATION)

    import anyio

    from worker.http.transports import TransportsError
    from worker.pipeline.limits import Limits
    from worker.service.serve import ServeOptions, serve
    from worker.store.database import DatabaseUnavailableError
    from worker.store.migrate import IncompatibleSchemaError

    limits = Limits.for_lanes(
        arguments.concurrency, arguments.drain_timeout, arguments.slow_share, calls_are_dear=sys.implementation.name == "pypy"
    )
    options = ServeOptions(settings, limits, once=arguments.once, retention=retention)
    if sys.implementation.name == "cpython":
        # What a delivery makes dies by reference counts; what cycles there are can wait. A tenth of the CPU, and pauses.
        gc.freeze()
        gc.set_threshold(20_000, 20, 20)
    uvloop = sys.implementation.name == "cpython" and sys.platform != "win32"
    try:
        orderly = anyio.run(serve, options, backend="asyncio", backend_options={"use_uvloop": uvloop})
    except DatabaseUnavailableError as error:
        return _failed(error, ExitCode.DATABASE_UNREACHABLE)
    except (IncompatibleSchemaError, TransportsError) as error:
        return _failed(error, ExitCode.CONFIGURATION)
    return ExitCode.OK if orderly else ExitCode.FAILED


def _failed(error: Exception, status: int) -> int:
    print(f"webhook-worker run: {without_password(str(error))}", file=sys.stderr)  # noqa: T201 - the one line that says why
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="webhook-worker run",
        description="Deliver webhooks until SIGTERM: then finish what is on the wire, give back the rest, and exit 0.",
    )
    parser.add_argument(
        "--concurrency", type=_lanes, default=DEFAULT_CONCURRENCY, metavar="N", help="deliveries at once (default 64)"
    )
    parser.add_argument(
        "--slow-share", type=_share, default=DEFAULT_SLOW_SHARE, metavar="S",
        help="how much of the lanes slow and unknown endpoints may hold together, above 0 up to 1 (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--once", action="store_true", help="end when nothing is due now; future retries stay")
    parser.add_argument(
        "--drain-timeout", type=_seconds, default=20.0, metavar="S", help="time to finish after SIGTERM (default 20s)"
    )
    parser.add_argument("--database-url", metavar="URL", help="default: DATABASE_URL, then the credential database_url")
    parser.add_argument(
        "--allow-network", action="append", metavar="CIDR", help="let private addresses be dialled (repeatable)"
    )
    parser.add_argument(
        "--deny-network", action="append", metavar="CIDR", help="let no address of it be dialled, even if public (repeatable)"
    )
    parser.add_argument(
        "--allow-port", action="append", metavar="PORTS", help="dial only these: 443, 8000-8999 or any (repeatable)"
    )
    parser.add_argument("--allow-http", action=argparse.BooleanOptionalAction, help="let plain http:// be sent")
    parser.add_argument("--transports", metavar="FILE", help="how endpoints are reached that need more than public TLS (TOML)")
    for name, kept in RETAINED.items():
        parser.add_argument(
            f"--retain-{name.replace('_', '-')}", metavar="D", help=f"how long {kept} are kept (30d; 'never' drops none)"
        )
    return parser


def _lanes(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= CONCURRENCY_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to {CONCURRENCY_MAX}")
    return int(text)


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a share of the lanes: write a number above 0, up to 1, such as 0.5")
    return share


def _seconds(text: str) -> float:
    try:
        return parse_duration(text if text[-1:].isalpha() else f"{text}s")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
