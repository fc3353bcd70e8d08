"""`webhook-worker run`: argparse, not typer, so that a worker process starts at once."""

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Sequence

from worker.cli.limits import LimitSettings, lanes, seconds, share
from worker.service import logs
from worker.settings import (
    METRICS_ENDPOINTS_MAX,
    ConfigurationError,
    ExitCode,
    GuardRails,
    Settings,
    is_tracing_wanted,
    read_choice,
    read_metrics_endpoints,
    read_metrics_listen,
    read_retention,
    without_password,
)

RETAINED = {
    "events": "events, except what an unfinished delivery needs,",
    "deliveries": "finished deliveries",
    "attempts": "attempts",
    "idempotency_keys": "idempotency keys",
}


def main(argv: Sequence[str]) -> int:
    """Run a worker until SIGTERM, or with --once until nothing is due; return the exit status."""
    # Nothing is claimed yet: nothing to drain. At once, since an exception may be swallowed by whatever the signal interrupts.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: os._exit(ExitCode.OK))
    arguments = _parser().parse_args(argv)
    try:
        logs.set_up(
            read_choice("log-format", logs.FORMATS, arguments.log_format),
            read_choice("log-level", logs.LEVELS, arguments.log_level) or "info",
        )
        settings = Settings.load(
            database_url=arguments.database_url,
            guards=GuardRails(arguments.allow_network, arguments.deny_network, arguments.allow_port, arguments.allow_http),
            transports=arguments.transports,
        )
        limit_settings = LimitSettings.of(arguments)
        limits = limit_settings.read()
        retention = read_retention({name: getattr(arguments, f"retain_{name}") for name in RETAINED})
        metrics_listen = read_metrics_listen(arguments.metrics_listen)
        metrics_endpoints = read_metrics_endpoints(arguments.metrics_endpoints)
        tracing = is_tracing_wanted()
    except ConfigurationError as error:
        return _failed(error, ExitCode.CONFIGURATION)

    import anyio

    from worker.http.transports import TransportsError
    from worker.pipeline.ports import StoreError
    from worker.service.serve import ServeOptions, serve
    from worker.store.database import DatabaseUnavailableError
    from worker.store.migrate import IncompatibleSchemaError

    options = ServeOptions(
        settings,
        limits,
        once=arguments.once,
        retention=retention,
        metrics_listen=metrics_listen,
        metrics_endpoints=metrics_endpoints,
        read_limits=limit_settings.read if limit_settings.file else None,
        tracing=tracing,
    )
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
    except StoreError as error:
        return _failed(error, ExitCode.FAILED)
    except Exception:  # by the log, with its secrets taken out, and not past it
        logging.getLogger("worker").exception("the worker ends by an error of its own: please report it")
        return ExitCode.FAILED
    return ExitCode.OK if orderly else ExitCode.FAILED


def _failed(error: Exception, status: int) -> int:
    print(f"webhook-worker run: {without_password(str(error))}", file=sys.stderr)  # noqa: T201 - the one line that says why
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="webhook-worker run",
        description="Deliver webhooks until SIGTERM: then finish what is on the wire, give back the rest, and exit 0.",
        epilog="Example: webhook-worker run --concurrency 128",
    )
    parser.add_argument(
        "--limits", metavar="FILE", help="the next three, as TOML; read again on SIGHUP, as long as no flag says otherwise"
    )
    parser.add_argument("--concurrency", type=lanes, metavar="N", help="deliveries at once (default 64)")
    parser.add_argument(
        "--slow-share", type=share, metavar="S",
        help="how much of the lanes slow and unknown endpoints may hold together, above 0 up to 1 (default 0.5)",
    )  # fmt: skip
    parser.add_argument("--drain-timeout", type=seconds, metavar="S", help="time to finish after SIGTERM (default 20s)")
    parser.add_argument("--once", action="store_true", help="end when nothing is due now; future retries stay")
    parser.add_argument(
        "--database-url", metavar="URL", help="the database (default: DATABASE_URL, then the credential database_url)"
    )
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
    parser.add_argument(
        "--metrics-listen", metavar="ADDRESS",
        help="serve /metrics, /livez and /readyz there: 127.0.0.1:9091, [::1]:9091 (default: nowhere)",
    )  # fmt: skip
    parser.add_argument(
        "--metrics-endpoints",
        type=_endpoints,
        metavar="N",
        help="give the N busiest endpoints metrics of their own (default 0)",
    )
    parser.add_argument(
        "--log-format", choices=logs.FORMATS, help="how logs look (default: journal if stderr is systemd's, else text)"
    )
    parser.add_argument("--log-level", choices=logs.LEVELS, help="say this, and what is more severe (default info)")
    for name, kept in RETAINED.items():
        parser.add_argument(
            f"--retain-{name.replace('_', '-')}", metavar="D", help=f"how long {kept} are kept (30d; 'never' drops none)"
        )
    return parser


def _endpoints(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= METRICS_ENDPOINTS_MAX):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to {METRICS_ENDPOINTS_MAX}")
    return int(text)
