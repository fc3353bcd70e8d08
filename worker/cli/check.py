"""`webhook-worker check`: whether everything is as a worker needs it, one line each."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from worker.cli.options import DatabaseUrl, Guards, OutputFormat
from worker.cli.output import Format, Record, emit_list, safe
from worker.cli.session import with_database
from worker.cli.stats import describe_holder
from worker.core.address import BLOCKED_PORTS, Network, format_ports
from worker.core.sealing import KeyRing
from worker.settings import ExitCode, Settings
from worker.store.database import Database, Row
from worker.store.migrate import IncompatibleSchemaError, read_schema
from worker.store.sql import functions_hash, statements

WEEKS_AHEAD_MIN = 3  # this week and two more
SNAPSHOT_WARN_SECONDS = 300.0
WAKE_WARN_SECONDS, WAKE_FAIL_SECONDS = 10.0, 300.0
TENANTS_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    check: str
    result: Literal["ok", "warn", "fail"]
    detail: str


def check(
    security: Annotated[bool, typer.Option("--security", help="Also how keys are stored, and what receivers may be.")] = False,
    *,
    guards: Guards,
    database_url: DatabaseUrl = None,
    format_: OutputFormat = Format.table,
) -> None:
    """Check the database: exit 0 if a worker can run (warnings allowed), 1, 4 or 78 if not."""
    settings = Settings.load(database_url=database_url, guards=guards)

    async def work(database: Database) -> tuple[list[Finding], ExitCode]:
        findings, code = await _look(database)
        if security and code is not ExitCode.CONFIGURATION:
            findings += await _look_at_security(database, settings)
        return findings, code

    findings, code = with_database(settings.database_url, work)
    if format_ is Format.table:
        for finding in findings:
            typer.echo(f"{finding.result.ljust(4)}  {finding.check.ljust(18)}  {safe(finding.detail)}")
    else:
        emit_list([asdict(finding) for finding in findings], format_)
    raise typer.Exit(code)


async def _look(database: Database) -> tuple[list[Finding], ExitCode]:
    sql = statements()
    encoding = await database.value(sql["encoding"])
    findings = [Finding("database", "ok", "reachable")]
    if encoding != "UTF8":
        findings.append(Finding("encoding", "fail", f"{encoding}; only UTF8 is supported: create another database"))
        return findings, ExitCode.CONFIGURATION
    findings.append(Finding("encoding", "ok", "UTF8"))
    try:
        schema = await read_schema(database)
    except IncompatibleSchemaError as error:
        findings.append(Finding("schema", "fail", str(error)))
        return findings, ExitCode.CONFIGURATION
    findings.append(Finding("schema", "ok", f"migration {schema.version}, for workers from {schema.oldest_worker}"))
    if schema.functions_hash == functions_hash():
        findings.append(Finding("functions", "ok", "those of this release"))
    else:
        findings.append(Finding("functions", "warn", "of another release: `webhook-worker migrate up` brings this one's"))
    weeks = {row["table_name"]: row["weeks"] for row in await database.rows(sql["check_partitions"])}
    findings.append(_judge_partitions(weeks))
    filled = [row["table_name"] for row in await database.rows(sql["check_defaults"])]
    findings.append(_judge_defaults(filled))
    findings.append(_judge_wake(await database.value(sql["check_wake"])))
    findings.append(_judge_backlogs(await database.rows(sql["check_backlogs"])))
    snapshots = await database.rows(sql["stats_snapshot"])
    findings.append(_judge_snapshot(snapshots[0] if snapshots else None))
    failed = any(finding.result == "fail" for finding in findings)
    return findings, ExitCode.FAILED if failed else ExitCode.OK


def _judge_partitions(weeks: dict[str, int]) -> Finding:
    fewest = min(weeks.values())
    detail = ", ".join(f"{table}: {count}" for table, count in weeks.items()) + " (weeks in a row, this one first)"
    if fewest >= WEEKS_AHEAD_MIN:
        return Finding("partitions", "ok", detail)
    return Finding("partitions", "warn" if fewest else "fail", f"{detail}; run a worker or `webhook-worker migrate up`")


def _judge_defaults(filled: list[str]) -> Finding:
    if not filled:
        return Finding("default partitions", "ok", "empty")
    return Finding("default partitions", "warn", f"rows in that of {', '.join(filled)}: partitions were missing for a while")


def _judge_snapshot(snapshot: Record | None) -> Finding:
    if snapshot is None:
        return Finding("oldest snapshot", "ok", "none is held")
    seconds, pid = snapshot["seconds"], snapshot["pid"]
    if pid is None if seconds is None else seconds > SNAPSHOT_WARN_SECONDS:  # seconds are not known of a slot or a standby
        return Finding("oldest snapshot", "warn", f"{describe_holder(snapshot)}: nothing that died since can be removed")
    return Finding("oldest snapshot", "ok", "recent")


def _judge_wake(seconds: float) -> Finding:
    if seconds < WAKE_WARN_SECONDS:
        return Finding("wake", "ok", "drained" if seconds <= 0 else f"drained up to {seconds:.1f} s ago")
    result: Literal["warn", "fail"] = "warn" if seconds < WAKE_FAIL_SECONDS else "fail"
    return Finding("wake", result, f"not drained for {seconds:.0f} s: is a worker running?")


def _judge_backlogs(near: list[Row]) -> Finding:
    if not near:
        return Finding("backlogs", "ok", "no tenant is near its limit")
    fullest = "; ".join(f"tenant {row['tenant']!r}: {row['backlog']} of {row['backlog_max']}" for row in near[:TENANTS_NAMED])
    if len(near) > TENANTS_NAMED:
        fullest += f"; and {len(near) - TENANTS_NAMED} more"
    if near[0]["backlog"] >= near[0]["backlog_max"]:
        return Finding("backlogs", "fail", f"{fullest}: at the limit, enqueue fails")
    return Finding("backlogs", "warn", f"{fullest}: at the limit, enqueue will fail")


async def _look_at_security(database: Database, settings: Settings) -> list[Finding]:
    sealed = {row["sealed_with"]: row["keys"] for row in await database.rows(statements()["check_keys"])}
    return list(_judge_security(sealed, settings))


def _judge_keys(sealed: dict[str | None, int], ring: KeyRing) -> Finding:
    warnings = []
    if missing := [name for name in sealed if name is not None and name not in ring]:
        warnings.append(f"sealed with {', '.join(missing)}, which this key file does not hold")
    if sealed.get(None) and not ring:
        warnings.append("stored unsealed, there is no key file: whoever reads the database can sign")
    elif sealed.get(None):
        warnings.append(f"{sealed[None]} stored unsealed: `webhook-worker keys rotate` seals them")
    if ring.is_exposed:
        warnings.append("the key file can be read by others: chmod 600")
    if warnings:
        return Finding("signing keys", "warn", "; ".join(warnings))
    if old := [name for name in sealed if name != ring.sealing and name is not None]:
        return Finding("signing keys", "ok", f"sealed, some with {', '.join(old)}: `webhook-worker keys rotate` ends that")
    return Finding("signing keys", "ok", f"sealed with {ring.sealing}" if ring else "there are none")


def _judge_security(sealed: dict[str | None, int], settings: Settings) -> Iterator[Finding]:
    yield _judge_keys(sealed, settings.key_ring)
    rules = settings.rules
    if rules.allow:
        yield Finding("private networks", "warn", f"receivers may be in {_listed(rules.allow)}: --allow-network")
    else:
        yield Finding("private networks", "ok", "refused: whatever is not the public internet")
    if rules.deny:
        yield Finding("other networks", "ok", f"{_listed(rules.deny)} refused besides: --deny-network")
    if not rules.ports:
        yield Finding("ports", "ok", "those that browsers refuse are refused: mail, ssh, X11 and the like")
    elif any(rules.judge_port(port) is None for port in BLOCKED_PORTS):
        yield Finding("ports", "warn", f"{format_ports(rules.ports)}: --allow-port, some of which browsers refuse")
    else:
        yield Finding("ports", "ok", f"only {format_ports(rules.ports)}: --allow-port")
    if settings.allow_http:
        yield Finding("plain http", "warn", "allowed: what is sent can be read and changed on its way")
    else:
        yield Finding("plain http", "ok", "refused")


def _listed(networks: Iterable[Network]) -> str:
    return ", ".join(str(network) for network in networks)
