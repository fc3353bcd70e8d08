"""The command line: one module a group of commands, put together here."""

import sys

from worker.cli import (
    attempts,
    attempts_tail,
    audit,
    check,
    completion,
    deliveries,
    delivery_changes,
    dev,
    endpoint_keys,
    endpoint_test,
    endpoints,
    endpoints_import,
    enqueue,
    events,
    explain,
    forward,
    jobs,
    keys,
    listen,
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
    "migrate", "endpoints", "tenants", "enqueue", "run", "deliveries", "jobs", "attempts", "workers", "stats", "top", "check",
    "audit", "keys", "events", "demo", "dev", "listen", "completion", "version",
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
app.add_typer(endpoints.app, name="endpoints")
app.add_typer(tenants.app, name="tenants")
app.add_typer(deliveries.app, name="deliveries")
app.add_typer(jobs.app, name="jobs")
app.add_typer(attempts.app, name="attempts")
app.add_typer(workers.app, name="workers")
app.add_typer(audit.app, name="audit")
app.add_typer(events.app, name="events")
app.add_typer(keys.app, name="keys")
forward.register_demo(app)
for group, command, example in (
    (endpoints.app, endpoint_keys.rotate_key, "endpoints rotate-key 7 --overlap 24h --reason yearly"),
    (endpoints.app, endpoint_keys.keys, "endpoints keys 7"),
    (endpoints.app, endpoints_import.import_file, "endpoints import endpoints.jsonl --format jsonl > keys.jsonl"),
    (endpoints.app, explain.explain, "endpoints explain https://example.com:8443/hook"),
    (endpoints.app, endpoint_test.ping, "endpoints test 7"),
    (app, enqueue.enqueue, "enqueue order.created --tenant acme --file order.json"),
    (
        deliveries.app,
        delivery_changes.retry,
        "deliveries retry --state dead --endpoint 7 --since 2d --rate 50 --reason 'their bug is fixed'",
    ),
    (
        deliveries.app,
        delivery_changes.cancel,
        "deliveries cancel --tenant acme --event-type order.created --until 7d --reason 'out of date'",
    ),
    (deliveries.app, delivery_changes.hold, "deliveries hold 48213 48214 --reason 'ticket 42'"),
    (deliveries.app, delivery_changes.release, "deliveries release 48213 48214"),
    (attempts.app, attempts_tail.tail, "attempts tail --endpoint 7 --failed"),
    (app, stats.stats, "stats"),
    (app, top.top, "top"),
    (app, check.check, "check --security"),
    (app, dev.dev, "dev --endpoints endpoints.jsonl"),
    (app, listen.listen, "listen --forward-to http://localhost:3000/hook --event-type 'order.*'"),
    (app, completion.completion, "completion bash > /etc/bash_completion.d/webhook-worker"),
    (app, version.version, "version"),
):
    name = example.split()[0 if group is app else 1]
    group.command(name, epilog=f"Example: webhook-worker {example}")(command)


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
