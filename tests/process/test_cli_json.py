"""docs/cli-json.md is what every command prints as JSON: its tables are read, and each command is run on a real database."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from command import running
from fleet import ROOT, free_port, until
from test_commands import every
from test_tail import tailing

from worker.cli.app import main
from worker.store.database import connect

PAGE = ROOT / "docs/cli-json.md"
_OBJECT = re.compile(r"^### (.+)$", re.MULTILINE)
_ROW = re.compile(r"^\| `([^`]+)` \| ([^|]+) \|([^|]*)\|$", re.MULTILINE)

ALWAYS_NULL_HERE = {
    "endpoint.not_before", "endpoint.recovering_since",
    "exchange.address", "exchange.tls", "exchange.status", "exchange.response_body",
    "job.stepped_at",
}  # fmt: skip
"""Fields that this scenario gives no value to: of a circuit, a connection, another session."""

Fields = dict[str, str]


def documented() -> tuple[dict[str, Fields], dict[str, str]]:
    """Return the objects' fields with their types, and what each command prints."""
    text = PAGE.read_text()
    commands, _, objects = text.partition("\n## Objects\n")
    parts = _OBJECT.split(objects)[1:]
    fields = {
        name: {field: type_.strip() for field, type_, _ in _ROW.findall(part)}
        for name, part in zip(parts[::2], parts[1::2], strict=True)
    }
    return fields, {name: prints.strip() for name, prints, _ in _ROW.findall(commands)}


class Checker:
    """Holds what was printed against what is documented, and remembers which fields were anything but null."""

    def __init__(self) -> None:
        self.objects, self.commands = documented()
        self.seen: set[str] = set()
        self.ran: set[str] = set()

    def command(self, name: str, printed: Any) -> None:
        self.ran.add(name)
        what = self.commands.get(name)
        assert what is not None, f"docs/cli-json.md says nothing of {name!r}: add a row to its first table"
        kind = "array" if what.startswith("array of ") else "object"
        assert (kind == "array") == isinstance(printed, list), f"{name} prints {type(printed).__name__}, not {what}"
        records = printed if isinstance(printed, list) else [printed]
        assert records, f"{name}: the scenario gives it nothing to print"
        for record in records:
            self.value(what.removeprefix("array of "), record, name)

    def value(self, type_: str, value: Any, where: str) -> None:
        nullable = type_.endswith(" or null")
        type_ = type_.removesuffix(" or null")
        if value is None:
            assert nullable, f"{where} is null, and documented as {type_}"
            return
        self.seen.add(where)
        if type_.startswith("array of "):
            assert isinstance(value, list), where
            for item in value:
                self.value(type_.removeprefix("array of "), item, f"{where}[]")
        elif type_ in self.objects:
            self.record(type_, value)
        else:
            assert _is(type_, value), f"{where} is {value!r}, and documented as {type_}"

    def record(self, name: str, record: Any) -> None:
        fields = self.objects[name]
        assert list(fields) == list(record), f"the fields of {name}: the page has {list(fields)}, it prints {list(record)}"
        for field, type_ in fields.items():
            self.value(type_, record[field], f"{name}.{field}")


def _is(type_: str, value: Any) -> bool:
    match type_:
        case "string":
            return isinstance(value, str)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case "number":
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case "boolean":
            return isinstance(value, bool)
        case "time":
            return isinstance(value, str) and value.endswith("Z") and datetime.fromisoformat(value).tzinfo is not None
        case "map":
            return isinstance(value, dict)
    raise AssertionError(f"docs/cli-json.md names a type {type_!r} that nobody knows")


def test_every_command_with_a_format_is_documented() -> None:
    """Who adds one adds a row, and who takes one away takes the row away."""
    named = {name for name, command in every().items() if any("--format" in parameter.opts for parameter in command.params)}
    _, rows = documented()
    missing, gone = sorted(named - set(rows)), sorted(set(rows) - named)
    assert [] == missing, f"docs/cli-json.md, first table: add a row for each, and run it in this file's scenario: {missing}"
    assert [] == gone, f"docs/cli-json.md, first table: there is no such command any more: {gone}"


def _sql(dsn: str, sql: str, *arguments: Any) -> Any:
    async def ask() -> Any:
        database = connect(dsn)
        try:
            return await database.value(sql, *arguments)
        finally:
            await database.close()

    return anyio.run(ask)


async def _beside_a_snapshot(dsn: str, work: Callable[[], object]) -> None:
    database = connect(dsn)
    async with database.transaction():
        await database.value("select pg_current_xact_id()::text")
        await anyio.to_thread.run_sync(work)
    await database.close()


RECORD = """
select webhook.record('w', (
    select json_agg(json_build_array(claim_id, id, $1::text, $2::text, $3::int, 0.1, 0.1, 'sorry', 'no', 0, null, null))::text
    from webhook.inflight))
"""
REPORT = {
    "host": "h", "pid": 1, "runtime": "r", "version": "0", "lanes": 4, "attempted": 1, "delivered": 1, "in_hand": 0,
    "draining": False,
}  # fmt: skip


class Scenario:
    """Runs commands, and holds what they print against what is documented."""

    def __init__(self, dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
        self.dsn, self.checker, self._capsys = dsn, Checker(), capsys

    def __call__(self, *argv: object, shape: str | None = None, code: int = 0) -> Any:
        """Run a command, of one or two words; what it prints is documented as its own, or as that of an object."""
        words = [str(word) for word in argv]
        assert code == main([*words, "--format", "json"]), self._capsys.readouterr().err
        printed = json.loads(self._capsys.readouterr().out)
        if shape is None:
            two = " ".join(words[:2])
            self.checker.command(two if two in every() else words[0], printed)
        else:
            self.checker.value(shape, printed, " ".join(words))
        return printed

    def attempt(self, disposition: str) -> None:
        """Let everything that is due fail."""
        _sql(self.dsn, "select webhook.claim('w', 100, 1000000)")
        _sql(self.dsn, RECORD, disposition, "http_status", 500)


@pytest.mark.sql
def test_what_is_printed_is_what_is_documented(
    empty_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every command is run, and every field is seen with a value: else its type would be a mere claim."""
    monkeypatch.setenv("DATABASE_URL", empty_dsn)
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_NETWORKS", "127.0.0.0/8")
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_HTTP", "1")
    cli = Scenario(empty_dsn, capsys)
    cli("migrate", "up")
    cli("migrate", "status")
    cli("version")
    cli("check")
    _local(cli)  # before there are others' endpoints
    endpoint = _endpoints(cli, tmp_path)
    _keys(cli, endpoint, tmp_path / "keys", monkeypatch)
    event = _deliveries(cli)
    _workers(cli)
    cli("events", "purge", "--id", event, "--dry-run", shape="purge trial")
    cli("events", "purge", "--id", event, "--yes")
    cli("audit", "list")
    cli("endpoints", "show", endpoint)

    checker = cli.checker
    assert set(checker.commands) == checker.ran, "this scenario runs every command of the page, and no other"
    everything = {f"{name}.{field}" for name, fields in checker.objects.items() for field in fields}
    assert sorted(ALWAYS_NULL_HERE) == sorted(everything - checker.seen)


def _endpoints(cli: Scenario, directory: Path) -> int:
    added = cli("endpoints", "add", "http://127.0.0.1:8999/hook", "--tenant", "acme", "--rate", 5, "--header", "X-A: b")
    endpoint: int = added["id"]
    lines = directory / "endpoints.jsonl"
    lines.write_text('{"url": "http://127.0.0.1:8999/other", "event_types": ["order.*"]}\n')
    cli("endpoints", "import", lines)
    cli("endpoints", "list")
    cli("endpoints", "set", endpoint, "--burst", 3)
    for verb in ("pause", "resume", "disable", "enable"):
        cli("endpoints", verb, endpoint, "--reason", "a test")
    cli("endpoints", "disable", endpoint, "--dry-run", shape="endpoint")
    cli("endpoints", "explain", "http://127.0.0.1:8999/hook")
    cli("endpoints", "explain", "http://10.0.0.1/hook", code=1)
    cli("tenants", "set", "acme", "--backlog-max", 1000)
    cli("tenants", "list")
    return endpoint


def _keys(cli: Scenario, endpoint: int, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cli("endpoints", "rotate-key", endpoint, "--dry-run", shape="array of key")
    file.write_text(cli("keys", "new", "first")["line"] + "\n")
    file.chmod(0o600)
    monkeypatch.setenv("WEBHOOK_WORKER_KEY_FILE", str(file))
    cli("endpoints", "rotate-key", endpoint, "--asymmetric")
    cli("keys", "rotate")
    cli("endpoints", "keys", endpoint)
    cli("endpoints", "test", endpoint, code=1)


def _local(cli: Scenario) -> None:
    """One event: `dev` delivers it to its own receiver; it is passed there, with a key that is not known there; and nowhere."""
    port = free_port()
    with (
        running(["dev", "--port", port, "--format", "jsonl"], DATABASE_URL=cli.dsn) as dev,
        running(["listen", "--forward-to", f"http://127.0.0.1:{port}/", "--format", "jsonl"], DATABASE_URL=cli.dsn) as there,
        running(["listen", "--forward-to", "http://127.0.0.1:9/", "--format", "jsonl"], DATABASE_URL=cli.dsn) as nowhere,
    ):
        anyio.run(until, lambda: dev.heard("printing what comes") and there.heard("passing") and nowhere.heard("passing"))
        cli("enqueue", "user.created", "--payload", "{}")
        anyio.run(until, lambda: len(dev.lines) == 2 and there.lines and nowhere.lines)
    cli.checker.command("dev", [json.loads(line) for line in dev.lines])
    cli.checker.command("listen", [json.loads(line) for line in there.lines + nowhere.lines])


def _deliveries(cli: Scenario) -> int:
    event: int = cli("enqueue", "order.created", "--tenant", "acme", "--payload", "{}")["id"]
    with tailing(cli.dsn, "--format", "jsonl") as tail:
        anyio.run(until, lambda: tail.said)
        cli.attempt("retry")
        anyio.run(until, lambda: tail.lines)
    cli.checker.command("attempts tail", [json.loads(line) for line in tail.lines])
    cli("attempts", "list")
    anyio.run(_beside_a_snapshot, cli.dsn, partial(cli, "stats"))
    delivery = cli("deliveries", "list")[0]["id"]
    cli("deliveries", "show", delivery)
    cli("deliveries", "count")
    for verb in ("hold", "release", "cancel", "retry"):
        cli("deliveries", verb, delivery)
    cli.attempt("dead")
    cli("deliveries", "export")
    cli("deliveries", "show", delivery)
    cli("deliveries", "retry", delivery, "--dry-run", shape="array of tried delivery")
    cli("deliveries", "retry", "--state", "dead", "--dry-run", shape="job trial")
    cli("deliveries", "retry", "--state", "dead", "--yes", "--detach", "--rate", 50, shape="job")
    job = cli("jobs", "list")[0]["id"]
    for verb in ("pause", "resume", "show", "cancel"):
        cli("jobs", verb, job)
    return event


def _workers(cli: Scenario) -> None:
    _sql(cli.dsn, "select webhook.report_worker('w', $1::text::jsonb)", json.dumps(REPORT))
    cli("workers", "drain", "w")
    cli("workers", "list")
