"""The command line: one module a group of commands, put together here."""

import sys

from worker.cli import (
    attempts,
    audit,
    check,
    deliveries,
    delivery_changes,
    endpoints,
    endpoints_import,
    enqueue,
    events,
    explain,
    forward,
    jobs,
    keys,
    migrate,
    stats,
    tenants,
    version,
)
from worker.cli.help import Commands, Group
from worker.cli.session import guarded

BY_USE = (
    "migrate", "endpoints", "tenants", "enqueue", "run", "deliveries", "jobs", "attempts", "stats", "check", "audit", "keys",
    "events", "demo", "version",
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
endpoints.app.command("import")(endpoints_import.import_file)
endpoints.app.command()(explain.explain)
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(tenants.app, name="tenants")
app.command("enqueue")(enqueue.enqueue)
for change, example in (
    (delivery_changes.retry, "retry --state dead --endpoint 7 --since 2d --rate 50 --reason 'their bug is fixed'"),
    (delivery_changes.cancel, "cancel --tenant acme --event-type order.created --until 7d --reason 'out of date'"),
    (delivery_changes.hold, "hold 48213 48214 --reason 'ticket 42'"),
    (delivery_changes.release, "release 48213 48214"),
):
    deliveries.app.command(epilog=f"Example: webhook-worker deliveries {example}")(change)
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(jobs.app, name="jobs")
app.add_typer(attempts.app, name="attempts")
app.command("stats")(stats.stats)
app.command("check")(check.check)
app.add_typer(audit.app, name="audit")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
app.command("version")(version.version)
forward.register_demo(app)


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code."""

    def run() -> int:
        code = 0
        try:
            app(argv, prog_name="webhook-worker")
        except SystemExit as finished:
            code = finished.code if isinstance(finished.code, int) else 0
        sys.stdout.flush()  # here, where a reader who has left is no crash
        return code

    return guarded(run)
