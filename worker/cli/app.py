"""The command line: one module a group of commands, put together here."""

import sys

from worker.cli import (
    attempts,
    attempts_tail,
    audit,
    check,
    completion,
    deliveries,
    endpoint_test,
    endpoints,
    endpoints_import,
    enqueue,
    events,
    explain,
    forward,
    keys,
    migrate,
    stats,
    tenants,
    top,
    version,
    workers,
)
from worker.cli.help import Commands, Group
from worker.cli.session import guarded

BY_USE = (
    "migrate", "endpoints", "tenants", "enqueue", "run", "deliveries", "attempts", "workers", "stats", "top", "check", "audit", "keys", "events",
    "demo", "completion", "version",
)  # fmt: skip


class _ByUse(Group):
    """Lists the commands in the order in which a newcomer needs them."""

    def list_commands(self, _: object) -> list[str]:
        return sorted(self.commands, key=BY_USE.index)


app = Commands(
    cls=_ByUse,
    name="webhook-worker",
    help="Delivers webhooks out of Postgres. Settings come from flags, then the environment (DATABASE_URL, "
    "WEBHOOK_WORKER_*), then a credentials file. Exit codes: 0 ok, 1 failed, 2 usage, 3 nothing matched, "
    "4 database unreachable, 78 configuration or incompatible schema.",
    pretty_exceptions_enable=False,  # they print local variables, keys among them
    add_completion=False,
)
app.add_typer(migrate.app, name="migrate")
forward.register_run(app)
endpoints.app.command("import", epilog="Example: webhook-worker endpoints import endpoints.jsonl --format jsonl > keys.jsonl")(
    endpoints_import.import_file
)
endpoints.app.command("explain", epilog="Example: webhook-worker endpoints explain https://example.com:8443/hook")(
    explain.explain
)
endpoints.app.command("test", epilog="Example: webhook-worker endpoints test 7")(endpoint_test.test)
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(tenants.app, name="tenants")
app.command("enqueue", epilog="Example: webhook-worker enqueue order.created --tenant acme --payload '{\"n\": 1}'")(
    enqueue.enqueue
)
app.add_typer(deliveries.app, name="deliveries")
attempts.app.command("tail", epilog="Example: webhook-worker attempts tail --endpoint 7 --failed")(attempts_tail.tail)
app.add_typer(attempts.app, name="attempts")
app.add_typer(workers.app, name="workers")
app.command("stats", epilog="Example: webhook-worker stats")(stats.stats)
app.command("top", epilog="Example: webhook-worker top")(top.top)
app.command("check", epilog="Example: webhook-worker check --security")(check.check)
app.add_typer(audit.app, name="audit")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.command("completion", epilog="Example: source <(webhook-worker completion bash)")(completion.completion)
app.command("version", epilog="Example: webhook-worker version")(version.version)
forward.register_demo(app)


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""

    def run() -> int:
        code = 0
        completion.prepare_completion()
        try:
            app(argv, prog_name="webhook-worker")
        except SystemExit as finished:
            code = finished.code if isinstance(finished.code, int) else 0
        sys.stdout.flush()  # here, where a reader who has left is no crash
        return code

    return guarded(run)
