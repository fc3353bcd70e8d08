"""The command line: what it prints, how it exits, and that nothing secret or dangerous comes out of it.

Most tests call `main` in this process: an interpreter takes long to start on PyPy. A few run the real thing.
"""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
import typer.main

from worker import __version__
from worker.cli import check, stats
from worker.cli.app import BY_USE, app, main
from worker.cli.export import PAYLOAD_ROWS
from worker.cli.output import Format, emit_list
from worker.cli.session import actor
from worker.store.database import connect
from worker.store.migrate import migrate_up
from worker.store.sql import migrations

URL = "https://127.0.0.1/hook"
KEY = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
RECORD = """
    select webhook.record('test', (
        select json_agg(json_build_array(claim_id, id, $1::text, $2::text, 500, 0.1, 0.1, $3::text, null, 0, null, null))::text
        from webhook.inflight))
"""


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Done]


@pytest.fixture
def cli(dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    """Return a function that runs a command in this process."""
    for name in ("WEBHOOK_WORKER_ALLOW_HTTP", "WEBHOOK_WORKER_KEY_FILE", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_NETWORKS", "127.0.0.0/8")

    def run(*argv: object) -> Done:
        capsys.readouterr()
        code = main([str(argument) for argument in argv])
        return Done(code, *capsys.readouterr())

    return run


@pytest.fixture
def query(dsn: str) -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs SQL."""

    def run(sql: str, *args: Any) -> list[dict[str, Any]]:
        async def go() -> list[dict[str, Any]]:
            database = connect(dsn)
            try:
                return await database.rows(sql, *args)
            finally:
                await database.close()

        return anyio.run(go)

    return run


Query = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def deliver(query: Query) -> Callable[..., None]:
    """Return a function that claims everything due and records one outcome for all of it."""

    def run(disposition: str, outcome: str, response: str = "") -> None:
        query("select webhook.claim('test', 100, 1000000)")
        query(RECORD, disposition, outcome, response)

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], None]]:
    """Return a function that sets what is read from stdin."""
    opened: list[io.TextIOWrapper] = []

    def give(data: bytes) -> None:
        opened.append(io.TextIOWrapper(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdin", opened[-1])

    yield give
    for stream in opened:
        stream.close()


def view_columns(query: Query, view: str) -> list[str]:
    rows = query(
        "select attname::text as name from pg_attribute where attrelid = $1::text::regclass and attnum > 0 order by attnum",
        view,
    )
    return [row["name"] for row in rows]


def commands() -> Iterator[tuple[Sequence[str], Any]]:
    """Yield every command with its words."""

    def walk(path: Sequence[str], command: Any) -> Iterator[tuple[Sequence[str], Any]]:
        if children := getattr(command, "commands", None):
            for name, child in children.items():
                yield from walk((*path, name), child)
        else:
            yield path, command

    return walk((), typer.main.get_command(app))


COMMANDS = {" ".join(path): command for path, command in commands()}


# -- every command ---------------------------------------------------------------------------------------------------


def test_the_commands_are_the_agreed_ones() -> None:
    """Scripts rely on these words."""
    expected = (
        "migrate up, migrate status, migrate sql, run, endpoints add, endpoints list, endpoints show, endpoints set, "
        "endpoints pause, endpoints resume, endpoints disable, endpoints enable, endpoints import, enqueue, "
        "deliveries list, deliveries show, deliveries retry, attempts list, stats, check, version, demo, "
        "endpoints rotate-key, endpoints keys, keys new, keys rotate, audit list, "
        "deliveries count, deliveries cancel, deliveries hold, deliveries release, deliveries export, "
        "jobs list, jobs show, jobs pause, jobs resume, jobs cancel"
    )

    assert set(expected.split(", ")) <= set(COMMANDS)


def test_help_lists_the_commands_in_the_order_of_use(cli: Cli) -> None:
    """A newcomer migrates first."""
    starts = [line[2:].split(" ")[0] for line in cli("--help").out.splitlines() if line.startswith("│ ")]

    assert list(BY_USE) == [word for word in starts if word in BY_USE]


def test_help_speaks_the_documentations_names(cli: Cli) -> None:
    """`deliveries retry [ID…]`, `--limit N`: no braces, ranges or types that only Python has."""
    helps = [cli(*words.split(), "--help").out for words in COMMANDS.keys() - {"run", "demo"}]

    assert "deliveries retry [ID…] [OPTIONS]" in cli("deliveries", "retry", "--help").out
    assert "endpoints show ID [OPTIONS]" in cli("endpoints", "show", "--help").out
    assert [] == [help_ for help_ in helps if any(odd in help_ for odd in ("{", "<bool>", "range", "<="))]


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_has_help_and_is_documented(words: str) -> None:
    """Every command and every option says what it is for, and docs/cli.md has it."""
    documentation = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    options = [parameter for parameter in COMMANDS[words].params if parameter.param_type_name == "option"]

    assert COMMANDS[words].help
    assert [] == [option.name for option in options if not option.help]
    assert f"webhook-worker {words}" in documentation
    assert [] == [option.opts[0] for option in options if option.opts[0] not in documentation]


@pytest.mark.parametrize("words", sorted(COMMANDS.keys() - {"run", "demo", "migrate sql", "top", "completion"}))
def test_every_command_that_prints_data_takes_a_format(words: str) -> None:
    """--format is everywhere."""
    assert "--format" in [name for parameter in COMMANDS[words].params for name in parameter.opts]


@pytest.mark.parametrize("words", ["add", "set", "rotate-key", "pause", "resume", "disable", "enable", "import"])
def test_every_change_takes_a_reason(words: str) -> None:
    """--reason is everywhere that something is changed."""
    assert "--reason" in [name for parameter in COMMANDS[f"endpoints {words}"].params for name in parameter.opts]


# -- exit codes ------------------------------------------------------------------------------------------------------


def test_ok_is_0(cli: Cli) -> None:
    """No error, no problem."""
    done = cli("version", "--format", "json")

    assert (0, __version__) == (done.code, done.json["version"])


@pytest.mark.parametrize(
    "line",
    [
        "bogus", "endpoints show x", "endpoints show 0", "endpoints show 9223372036854775808", "endpoints set 1",
        "endpoints set 1 --rate fast", "endpoints add", "endpoints add https://a.example --header nocolon",
        "endpoints list --state bogus", "deliveries list --state bogus", "deliveries list --since yesterday",
        "deliveries list --limit 0", "deliveries retry", "deliveries retry 1 --state dead", "deliveries cancel", "jobs show x",
        "listen", "listen --forward-to ftp://localhost/", "dev --port 0", "dev --data x --database-url postgresql://localhost/x",
        "deliveries retry --state dead --rate 0", "deliveries list --status 1000", "deliveries list --until tomorrow",
        "attempts list --after 7",
        "enqueue a --payload 1 --file -", "enqueue a --payload 1 --in 1h --at 2030-01-01T00:00:00Z",
        "enqueue a --payload 1 --at 2030-01-01T00:00:00", "enqueue a --payload 1 --in soon", "stats --format xml",
        "run --slow-share 0", "run --slow-share 1.1", "run --slow-share nan", "run --slow-share half",
    ],
)  # fmt: skip
def test_usage_is_2(cli: Cli, line: str) -> None:
    """A command that cannot be meant as it stands exits with 2, and prints nothing to stdout."""
    done = cli(*line.split())

    assert (2, "") == (done.code, done.out)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("endpoints list --state bogus", "'--state': 'bogus' is not one of enabled, paused, disabled"),
        (
            "deliveries list --state bogus",
            "'--state': 'bogus' is not one of pending, in_flight, delivered, dead, cancelled, held",
        ),
        ("stats --format xml", "'--format': 'xml' is not one of table, json, jsonl"),
        ("attempts list --limit 10001", "'--limit': '10001' is not a number from 1 to 10000"),
        ("endpoints show x", "'ID': 'x' is not a number from 1 to 9223372036854775807"),
    ],
)
def test_a_bad_value_is_answered_with_the_allowed_ones(cli: Cli, line: str, sentence: str) -> None:
    """One sentence: which option, what was given, what may be."""
    done = cli(*line.split())

    assert 2 == done.code
    assert f"Invalid value for {sentence}" in " ".join(done.err.replace("│", " ").split())


@pytest.mark.parametrize(
    "line",
    [
        "endpoints list", "endpoints show 404", "endpoints set 404 --rate 1", "endpoints pause 404", "endpoints resume 404",
        "endpoints disable 404", "endpoints enable 404", "deliveries list", "deliveries show 404", "deliveries retry 404",
        "deliveries retry --state dead", "attempts list", "deliveries hold --tenant x", "deliveries cancel 404", "jobs list",
        "jobs show 404", "jobs show 404 --follow", "jobs pause 404", "jobs cancel 404",
    ],
)  # fmt: skip
def test_nothing_matched_is_3(cli: Cli, line: str) -> None:
    """What does not exist, or matches nothing, exits with 3 and says so on stderr."""
    done = cli(*line.split(), "--format", "json")

    assert (3, True) == (done.code, done.out.strip() in ("", "[]"))
    assert done.err.startswith(("webhook-worker: ", "there is no", "0 due now"))


@pytest.mark.fault(68)
@pytest.mark.parametrize(
    "line",
    [
        "stats", "check", "migrate up", "endpoints list", "enqueue a --payload 1", "attempts tail", "top --once",
        "listen --forward-to http://localhost:3000/",
    ],
)  # fmt: skip
def test_an_unreachable_database_is_4(cli: Cli, line: str) -> None:
    """Nobody listens: one clear line, without the password, and 4."""
    done = cli(*line.split(), "--database-url", "postgresql://me:s3cret@127.0.0.1:1/x")

    assert (4, "", 1) == (done.code, done.out, done.err.count("\n"))
    assert done.err.startswith("webhook-worker: the database is out of reach")
    assert "s3cret" not in done.err


def test_a_missing_setting_is_78(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No database URL: 78, and the message names the setting."""
    monkeypatch.delenv("DATABASE_URL")
    done = cli("stats")

    assert (78, True) == (done.code, "DATABASE_URL" in done.err)


def test_a_bad_setting_is_78(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed network: 78, and the message names where it stands."""
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_NETWORKS", "10.0.0.0/99")
    done = cli("endpoints", "add", URL)

    assert (78, True) == (done.code, "WEBHOOK_WORKER_ALLOW_NETWORKS" in done.err)


@pytest.mark.parametrize(
    "line", ["check", "stats", "endpoints list", "deliveries list", "enqueue a --payload 1", "attempts tail"]
)
def test_a_database_that_was_never_migrated_is_78(cli: Cli, empty_dsn: str, line: str) -> None:
    """No schema: 78, and the next step."""
    done = cli(*line.split(), "--database-url", empty_dsn)

    assert (78, True) == (done.code, "migrate up" in done.out + done.err)


# -- migrate ---------------------------------------------------------------------------------------------------------


def test_migrate_up_brings_an_empty_database_to_this_release(cli: Cli, empty_dsn: str) -> None:
    """`status` says pending, `up` applies, `status` says applied, and `up` again does nothing."""

    def states() -> set[str]:
        return {row["state"] for row in cli("migrate", "status", "--database-url", empty_dsn, "--format", "json").json}

    before = states()
    first = cli("migrate", "up", "--database-url", empty_dsn, "--format", "json")
    second = cli("migrate", "up", "--database-url", empty_dsn, "--format", "json")

    assert ({"pending"}, {"applied"}) == (before, states())
    assert [*(name for _, name, _ in migrations()), "functions"] == [row["applied"] for row in first.json]
    assert (0, [], "nothing to do: the schema is up to date\n") == (second.code, second.json, second.err)


def test_migrate_sql_is_the_whole_schema_in_one_transaction(cli: Cli, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is printed without a database, run by hand, leaves nothing to migrate."""
    monkeypatch.delenv("DATABASE_URL")
    done = cli("migrate", "sql")
    on_error_stop, _, script = done.out.partition("\n")

    async def run() -> list[str]:
        database = connect(empty_dsn)
        await database.script([script])
        left = await migrate_up(database)
        await database.close()
        return left

    assert (0, "\\set ON_ERROR_STOP on") == (done.code, on_error_stop)
    assert ("begin;", "commit;") == (script.split(maxsplit=1)[0], script.split()[-1])
    assert [] == anyio.run(run)


# -- endpoints -------------------------------------------------------------------------------------------------------


def test_add_prints_one_object_with_the_key(cli: Cli) -> None:
    """`--format json` gives id, url and key on stdout, and chatter only on stderr."""
    done = cli("endpoints", "add", URL, "--key", KEY, "--format", "json")

    assert (0, {"id": done.json["id"], "url": URL, "key": KEY}) == (done.code, done.json)


@pytest.mark.fault(68)
def test_the_key_is_never_shown_again(cli: Cli, query: Query) -> None:
    """Nothing but its creation prints a key, or the value of a header."""
    options = "--header", "Authorization: Bearer canary"
    made = cli("endpoints", "add", URL, *options, "--format", "json").json
    cli("endpoints", "pause", made["id"])
    printed = [
        cli(*line.split(), "--format", format_)
        for line in (
            f"endpoints show {made['id']}",
            "endpoints list",
            f"endpoints set {made['id']} --rate 3",
            "check --security",
        )
        for format_ in ("table", "json", "jsonl")
    ]
    audit = str(query("select * from webhook.audit"))

    assert not [done for done in printed if made["key"][6:] in done.out + done.err or "canary" in done.out + done.err]
    assert made["key"][6:] not in audit
    assert "canary" not in audit


def test_every_key_that_is_given_signs(cli: Cli, query: Query) -> None:
    """An endpoint may begin in the middle of a rotation: all its keys are stored, and the first is printed."""
    other = "whsec_" + "QUJD" * 11
    made = cli("endpoints", "add", URL, "--key", KEY, "--key", other, "--format", "json").json
    rows = query("select 'whsec_' || encode(secret, 'base64') as key from webhook.endpoint_key order by id")

    assert (KEY, [KEY, other]) == (made["key"], [row["key"] for row in rows])


def test_no_event_types_are_all_of_them(cli: Cli) -> None:
    """People read `*`, programs the view's empty list."""
    made = cli("endpoints", "add", URL, "--format", "json").json
    listed = cli("endpoints", "list").out.splitlines()
    shown = cli("endpoints", "show", made["id"]).out

    assert ["*"] == [line.split()[2] for line in listed if URL in line]
    assert "event_types *" in " ".join(shown.split())
    assert [] == cli("endpoints", "show", made["id"], "--format", "json").json["event_types"]


def test_endpoints_are_listed_with_the_views_columns(cli: Cli, query: Query) -> None:
    """JSON has the columns of webhook.endpoints, in order, and times in RFC 3339 with Z."""
    cli("endpoints", "add", URL)
    record = cli("endpoints", "list", "--format", "json").json[0]
    shown = cli("endpoints", "show", record["id"], "--format", "json").json

    assert view_columns(query, "webhook.endpoints") == list(record) == list(shown)
    assert "Z" == record["created_at"][-1]
    assert "T" == record["created_at"][10]


def test_every_option_arrives(cli: Cli) -> None:
    """What is given to `add` is what `show` shows."""
    options = [
        "--tenant", "acme", "--event-type", "order.*", "--event-type", "user.created", "--rate", "5", "--burst", "2",
        "--max-in-flight", "7", "--timeout", "4.5", "--retry", "5s 5m", "--header", "X-A: b:c",
        "--transport", "partner-2",
    ]  # fmt: skip
    made = cli("endpoints", "add", URL, *options, "--format", "json").json
    record = cli("endpoints", "show", made["id"], "--format", "json").json

    assert {
        "tenant": "acme", "event_types": ["order.*", "user.created"], "rate": 5, "burst": 2, "max_in_flight": 7,
        "timeout_seconds": 4.5, "retry_seconds": [5, 300], "headers": {"X-A": "***"}, "state": "enabled",
        "transport": "partner-2",
    }.items() <= record.items()  # fmt: skip


def test_set_changes_what_is_given_and_none_removes_a_limit(cli: Cli) -> None:
    """`--rate none` takes the limit away, `--retry none` the retries, and the rest stays."""
    made = cli("endpoints", "add", URL, "--rate", 5, "--burst", 3, "--header", "X-A: b", "--format", "json").json
    done = cli(
        "endpoints", "set", made["id"], "--rate", "none", "--retry", "none", "--no-headers", "--format", "json"
    )  # fmt: skip

    assert (0, None, 3, [], {}) == (
        done.code, done.json["rate"], done.json["burst"], done.json["retry_seconds"], done.json["headers"]
    )  # fmt: skip


def test_states_are_changed_with_a_reason_by_this_user(cli: Cli, query: Query) -> None:
    """pause, resume, disable, enable: each sets the state and leaves an audit row of the system's user."""
    made = cli("endpoints", "add", URL, "--format", "json").json
    states = []
    for word in ("pause", "resume", "disable", "enable"):
        record = cli("endpoints", word, made["id"], "--reason", f"because of {word}", "--format", "json").json
        states.append((record["state"], record["state_reason"]))
    rows = query("select actor, reason from webhook.audit where action <> 'endpoint.create' order by id")

    assert [("paused", "because of pause"), ("enabled", ""), ("disabled", "because of disable"), ("enabled", "")] == states
    assert [(actor(), f"because of {word}") for word in ("pause", "resume", "disable", "enable")] == [
        (row["actor"], row["reason"]) for row in rows
    ]


def test_a_disabled_endpoint_is_not_resumed(cli: Cli) -> None:
    """Refused by the database: 1, one line, and its advice on the next."""
    made = cli("endpoints", "add", URL, "--format", "json").json
    cli("endpoints", "disable", made["id"])
    done = cli("endpoints", "resume", made["id"])

    assert (1, [
        f"webhook-worker: endpoint {made['id']} is disabled, not paused",
        "hint: Look at its state_reason, then enable it.",
    ]) == (done.code, done.err.splitlines())  # fmt: skip


@pytest.mark.parametrize(("url", "rule"), [("https://10.0.0.1/", "10.0.0.0/8"), ("http://127.0.0.1/", "--allow-http")])
def test_a_denied_url_is_refused_with_its_rule(cli: Cli, url: str, rule: str) -> None:
    """1, the rule on stderr, and nothing is registered."""
    done = cli("endpoints", "add", url)

    assert (1, "", True) == (done.code, done.out, rule in done.err)
    assert 3 == cli("endpoints", "list").code


def test_what_is_denied_can_be_allowed_by_flags(cli: Cli) -> None:
    """--allow-network and --allow-http make exceptions."""
    assert 0 == cli("endpoints", "add", "http://10.0.0.1/", "--allow-network", "10.0.0.0/8", "--allow-http").code


def test_a_port_is_no_web_servers_or_not_on_the_list(cli: Cli) -> None:
    """25 is refused as it is; with a list, what is not on it. `any` takes the guard rail off."""
    assert (1, True) == ((done := cli("endpoints", "add", "https://8.8.8.8:25/")).code, "browsers refuse it" in done.err)
    assert (1, True) == (
        (done := cli("endpoints", "add", "https://8.8.8.8:8443/", "--allow-port", "443")).code,
        "--allow-port 443" in done.err,
    )
    assert 0 == cli("endpoints", "add", "https://8.8.8.8:25/", "--allow-port", "any").code


def test_explain_tells_each_step_and_its_rule(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """URL, port, addresses: what each is taken for, and which rule decided. It needs no database."""
    for name in ("DATABASE_URL", "WEBHOOK_WORKER_ALLOW_NETWORKS"):
        monkeypatch.delenv(name)

    def steps(*arguments: str) -> tuple[int, list[tuple[str, str, str, str | None]]]:
        done = cli("endpoints", "explain", *arguments, "--format", "json")
        return done.code, [(one["step"], one["value"], one["verdict"], one["rule"]) for one in json.loads(done.out)]

    assert (0, [("url", "https://8.8.8.8/", "ok", None), ("port", "443", "ok", None), ("address", "8.8.8.8", "ok", None)]) == (
        steps("HTTPS://8.8.8.8.:443")
    )
    code, told = steps("http://localhost:9/x", "--allow-http")
    assert (1, ("url", "http://localhost:9/x", "ok", None)) == (code, told[0])
    assert ("port", "9", "denied", "no web server's: browsers refuse it, too") == told[1]
    assert 2 == len(told)  # nothing is looked up for it
    code, told = steps("https://localhost/", "--allow-port", "443")
    assert (1, ("address", "127.0.0.1", "denied", "127.0.0.0/8")) == (code, told[-1])
    assert 0 == steps("https://127.0.0.1/", "--allow-network", "127.0.0.0/8")[0]
    assert ("address", "127.0.0.1", "denied", "--deny-network 127.0.0.1/32") == (
        steps("https://127.0.0.1/", "--allow-network", "127.0.0.0/8", "--deny-network", "127.0.0.1/32")[1][-1]
    )
    refused = cli("endpoints", "explain", "https://9.9.9.9/", "--deny-network", "9.9.9.9/32").err
    assert ("nothing else can allow it" in refused, "--allow-network" in refused) == (True, False)
    code, told = steps("https://receiver.invalid/")
    assert (1, ("dns", "receiver.invalid", "no address", None)) == (code, told[-1])
    code, told = steps("https://u@example.com/")
    assert (1, 1, "refused") == (code, len(told), told[0][2])


def test_what_the_environment_allows_can_be_refused_by_a_flag(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """--no-allow-http: for one command, plain http is refused."""
    monkeypatch.setenv("WEBHOOK_WORKER_ALLOW_HTTP", "1")
    url = "http://127.0.0.1/"

    assert (0, 1) == (cli("endpoints", "add", url).code, cli("endpoints", "add", url, "--no-allow-http").code)


def test_a_name_that_does_not_resolve_is_accepted_with_a_warning(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """0, a warning on stderr, and one object on stdout."""

    def getaddrinfo(*_: Any, **__: Any) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr("worker.endpoints.urls.socket.getaddrinfo", getaddrinfo)
    done = cli("endpoints", "add", "https://later.example/", "--format", "json")

    assert (0, "https://later.example/") == (done.code, done.json["url"])
    assert done.err.startswith("warning: later.example does not resolve now")


def test_endpoints_are_paged(cli: Cli) -> None:
    """The cursor on stderr leads to the next page; the last page has none."""
    ids = [cli("endpoints", "add", URL, "--format", "json").json["id"] for _ in range(3)]
    first = cli("endpoints", "list", "--limit", 2, "--format", "json")
    second = cli("endpoints", "list", "--limit", 2, "--after", first.err.split()[-1], "--format", "json")

    assert ids[::-1] == [record["id"] for record in first.json + second.json]
    assert "" == second.err


def test_import_applies_good_lines_and_reports_bad_ones(cli: Cli, stdin: Callable[[bytes], None]) -> None:
    """Errors carry their line's number, keys are printed once, and one bad line makes it exit with 1."""
    lines = [
        {"url": URL, "tenant": "a", "rate": 2, "retry": "1s", "keys": [KEY]}, "not json", [], {"tenant": "no url"},
        {"url": "https://10.0.0.1/"}, {"url": URL, "colour": "blue"}, {"url": URL, "event_types": ["order.*"]},
    ]  # fmt: skip
    stdin(b"\n".join(b"not json" if line == "not json" else json.dumps(line).encode() for line in lines))
    done = cli("endpoints", "import", "-", "--format", "jsonl")
    made = [json.loads(line) for line in done.out.splitlines()]

    assert (1, [1, 7], KEY) == (done.code, [record["line"] for record in made], made[0]["key"])
    assert all(f"line {number}: " in done.err for number in (2, 3, 4, 5, 6))
    assert "2 created, 5 refused" in done.err


def test_import_of_good_lines_is_0(cli: Cli, tmp_path: Path) -> None:
    """A file without bad lines, read from disk; empty lines do not count."""
    file = tmp_path / "endpoints.jsonl"
    file.write_text("\n\n".join(json.dumps({"url": f"{URL}/{n}"}) for n in range(1200)))
    done = cli("endpoints", "import", file, "--format", "json")

    assert (0, 1200) == (done.code, len(done.json))


# -- enqueue ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b'{"n":  1}\n', b"", "naïve ✓\r\n\t".encode(), b"\xef\xbb\xbf{}", b"not json"])
def test_a_payload_is_stored_byte_for_byte(
    cli: Cli, query: Query, stdin: Callable[[bytes], None], tmp_path: Path, payload: bytes
) -> None:
    """From stdin, from a file, and, where it is text, as an argument."""
    (tmp_path / "payload").write_bytes(payload)
    stdin(payload)
    cli("enqueue", "a", "--file", "-")
    stdin(payload)
    cli("enqueue", "a")
    cli("enqueue", "a", "--file", tmp_path / "payload")
    cli("enqueue", "a", "--payload", payload.decode())

    assert [payload] * 4 == [row["payload"].encode() for row in query("select payload from webhook.events")]


@pytest.mark.parametrize("payload", [b"\xff", b"a\0b"])
def test_a_payload_that_cannot_be_stored_is_refused(cli: Cli, stdin: Callable[[bytes], None], payload: bytes) -> None:
    """Bytes that are no text, and NUL: 1, and why."""
    stdin(payload)
    done = cli("enqueue", "a", "--file", "-")

    assert (1, "", True) == (done.code, done.out, "the payload" in done.err)


def test_enqueue_prints_the_event_id(cli: Cli) -> None:
    """The id alone for people and shells, an object as JSON; the same key again gives the same id."""
    options = "--payload", "1", "--tenant", "t", "--idempotency-key", "k"
    first = cli("enqueue", "order.created", *options)
    again = cli("enqueue", "order.created", *options, "--format", "json")

    assert (0, 0) == (first.code, again.code)
    assert int(first.out) == again.json["id"]


def test_delivery_can_be_put_off(cli: Cli, query: Query) -> None:
    """`--at` and `--in` say when."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1", "--at", "2100-01-31T10:00:00+01:00")
    cli("enqueue", "a", "--payload", "1", "--in", "2h")
    at = cli("deliveries", "list", "--format", "json").json[1]["next_attempt_at"]
    rows = query(
        "select extract(epoch from run_at - event_created_at)::float8 as seconds from webhook.pending order by id desc"
    )

    assert "2100-01-31T09:00:00.000000Z" == at
    assert 7200 == rows[0]["seconds"]


def test_a_bad_event_type_is_refused(cli: Cli) -> None:
    """The database's own words, and its advice on the next line: 1."""
    done = cli("enqueue", "bad type", "--payload", "1")
    message, hint = done.err.splitlines()

    assert (1, "webhook-worker: event type 'bad type' is not valid") == (done.code, message)
    assert hint.startswith("hint: Use up to 255 letters")


# -- deliveries and attempts -----------------------------------------------------------------------------------------


def test_deliveries_are_listed_with_the_views_columns(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """JSON has the columns of webhook.deliveries; `show` adds the attempts as `history`."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    deliver("retry", "http_status", "sorry")
    record = cli("deliveries", "list", "--format", "json").json[0]
    shown = cli("deliveries", "show", record["id"], "--format", "json").json
    lines = cli("deliveries", "list", "--format", "jsonl").out.splitlines()

    assert view_columns(query, "webhook.deliveries") == list(record)
    assert [record] == [json.loads(line) for line in lines]
    assert ["sorry"] == [attempt["response"] for attempt in shown.pop("history")]
    assert ["due: a worker takes it next. If it stays so, is one running? `webhook-worker check` says"] == shown.pop("why")
    assert record == shown
    assert ("http_status", 500, 1) == (record["last_error"], record["last_status"], record["attempts"])


def test_attempts_are_listed_with_the_views_columns(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """JSON has the columns of webhook.attempts, and pages follow each other."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    deliver("retry", "http_status")
    deliver("delivered", "ok")
    first = cli("attempts", "list", "--limit", 1, "--format", "json")
    second = cli("attempts", "list", "--limit", 1, "--after", first.err.split()[-1], "--format", "json")
    failed = cli("attempts", "list", "--outcome", "http_status", "--since", "1h", "--delivery", 1, "--endpoint", 1)

    assert view_columns(query, "webhook.attempts") == list(first.json[0])
    assert [2, 1] == [record["attempt"] for record in first.json + second.json]
    assert ("", 0, True) == (second.err, failed.code, "http_status" in failed.out)


def test_deliveries_are_filtered(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """By state, endpoint, tenant, type and age, and by all of them together."""
    first = cli("endpoints", "add", URL, "--tenant", "a", "--format", "json").json["id"]
    second = cli("endpoints", "add", URL, "--tenant", "b", "--format", "json").json["id"]
    cli("enqueue", "x", "--tenant", "a", "--payload", "1")
    deliver("dead", "http_status")
    cli("enqueue", "y", "--tenant", "a", "--payload", "1")
    cli("endpoints", "pause", second)
    cli("enqueue", "x", "--tenant", "b", "--payload", "1")
    query("update webhook.pending set event_created_at = event_created_at - interval '1 day' where id = 3")

    def matching(line: str) -> list[int]:
        return [record["id"] for record in cli("deliveries", "list", *line.split(), "--format", "json").json]

    assert [3, 2, 1] == matching("")
    assert ([1], [2], [3]) == (matching("--state dead"), matching("--state pending"), matching("--state held"))
    assert ([2, 1], [3]) == (matching(f"--endpoint {first}"), matching("--tenant b"))
    assert ([2], [2, 1], [3]) == (matching("--event-type y"), matching("--since 1h"), matching("--after 4 --limit 1"))
    assert [1] == matching(f"--state dead --endpoint {first} --tenant a --event-type x --since 1h")
    assert ([], [3]) == (matching("--state in_flight"), matching("--until 12h"))
    assert ([1], [1], [], []) == (
        matching("--error http_status"), matching("--status 500"), matching("--error timeout"), matching("--status 404")
    )  # fmt: skip
    assert {"count": 2} == cli("deliveries", "count", "--tenant", "a", "--format", "json").json


def test_a_delivered_delivery_is_retried_only_by_force(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """Refused with 1; forced with 0, and audited."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    deliver("delivered", "ok")
    refused = cli("deliveries", "retry", 1)
    forced = cli("deliveries", "retry", 1, "--force", "--reason", "they lost it", "--format", "json")
    audited = query("select actor, reason, delivery_id from webhook.audit where action = 'delivery.retry'")

    assert (1, True) == (refused.code, "--force" in refused.err)
    assert (0, [{"id": 1, "state_before": "delivered", "state": "pending"}]) == (forced.code, forced.json)
    assert [(actor(), "they lost it", 1)] == [tuple(row.values()) for row in audited]


@pytest.mark.parametrize("word", ["pause", "disable"])
def test_a_retry_does_not_call_due_what_stays_held(cli: Cli, deliver: Callable[..., None], word: str) -> None:
    """Its endpoint is paused or disabled: the schedule starts anew, and the delivery waits for the endpoint."""
    made = cli("endpoints", "add", URL, "--format", "json").json
    cli("enqueue", "a", "--payload", "1")
    deliver("dead", "http_status")
    cli("endpoints", word, made["id"])
    done = cli("deliveries", "retry", 1, "--format", "json")

    assert (0, [{"id": 1, "state_before": "dead", "state": "held"}]) == (done.code, done.json)
    assert done.err.startswith("0 due now, 1 held, 0 refused, 0 not found\nheld until their endpoint")
    assert "held" == cli("deliveries", "show", 1, "--format", "json").json["state"]


def test_everything_that_matches_is_exported(cli: Cli) -> None:
    """Lines or one array, with payloads if asked, more than a page of them; nothing that matches is 3."""
    cli("endpoints", "add", URL, "--tenant", "t")
    for n in range(PAYLOAD_ROWS + 2):
        cli("enqueue", "a", "--payload", f'{{"n": {n}}}', "--tenant", "t")
    lines = cli("deliveries", "export", "--tenant", "t", "--payload").out.splitlines()
    listed = cli("deliveries", "list", "--tenant", "t", "--format", "json", "--limit", 1000).json
    none = cli("deliveries", "export", "--tenant", "x", "--format", "json")

    exported = [json.loads(line) for line in lines]
    assert [f'{{"n": {n}}}' for n in reversed(range(PAYLOAD_ROWS + 2))] == [row.pop("payload") for row in exported]
    assert {"application/json"} == {row.pop("content_type") for row in exported}
    assert listed == exported == cli("deliveries", "export", "--tenant", "t", "--format", "json").json
    assert (3, []) == (none.code, none.json)


def test_deliveries_are_held_released_and_cancelled_by_id(cli: Cli, query: Query) -> None:
    """`show` says who holds it and why; --dry-run changes nothing."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    looked = cli("deliveries", "cancel", 1, 2, "--dry-run", "--format", "json")
    held = cli("deliveries", "hold", 1, "--reason", "ticket 42", "--format", "json")
    shown = cli("deliveries", "show", 1, "--format", "json").json
    released = cli("deliveries", "release", 1, "--format", "json")
    cancelled = cli("deliveries", "cancel", 1, 2, "--format", "json")
    again = cli("deliveries", "hold", 1, "--format", "json")

    assert ([{"id": 1, "state": "pending"}], True) == (looked.json, "nothing was changed" in looked.err)
    assert [{"id": 1, "state_before": "pending", "state": "held"}] == held.json
    assert ("held", True) == (
        shown["state"],
        f"held by {actor()} since" in shown["why"][0] and "(ticket 42)" in shown["why"][0],
    )
    assert [{"id": 1, "state_before": "held", "state": "pending"}] == released.json
    assert (1, [{"id": 1, "state_before": "pending", "state": "cancelled"}]) == (cancelled.code, cancelled.json)
    assert (1, "delivery 1 is cancelled. It has ended: there is nothing left to hold.") == (
        again.code,
        again.err.splitlines()[0],
    )


def test_a_bulk_change_is_shown_before_it_is_done(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """Count, sample and effect; --dry-run stops there, and so does it where nobody can be asked."""
    cli("endpoints", "add", URL, "--tenant", "t")
    for _ in range(5):
        cli("enqueue", "a", "--payload", "1", "--tenant", "t")
    deliver("dead", "http_status")
    line = ("deliveries", "retry", "--tenant", "t", "--rate", 0.5)
    looked = cli(*line, "--dry-run", "--format", "json")
    shown = cli(*line, "--dry-run")
    asked = cli(*line)
    forced = [cli("deliveries", *words.split(), "--yes") for words in ("retry --state delivered", "cancel --state dead")]

    assert {"action": "retry", "matching": 5, "rate": 0.5, "seconds": 10}.items() <= looked.json.items()
    assert [1, 2, 3, 4, 5] == [row["id"] for row in looked.json["sample"]]
    assert "5 deliveries match, the oldest of them:\n  1  a for endpoint 1: dead, http_status\n" in shown.err
    assert "0.5 a second, for about 0:00:10\n" in shown.err
    assert (2, True) == (asked.code, "--dry-run" in asked.err)
    assert [
        (1, "webhook-worker: these are delivered"),
        (1, "webhook-worker: only what is pending or held can be cancelled"),
    ] == [(done.code, done.err.splitlines()[0]) for done in forced]
    assert [] == query("select id from webhook.job")


def test_a_bulk_change_is_a_job(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """Left to the workers; listed, shown, paused, resumed and cancelled; run again it finds what is left."""
    cli("endpoints", "add", URL, "--tenant", "t")
    for _ in range(5):
        cli("enqueue", "a", "--payload", "1", "--tenant", "t")
    deliver("dead", "http_status")
    line = ("deliveries", "retry", "--tenant", "t", "--yes", "--detach", "--format", "json")
    made = cli(*line, "--rate", 50, "--limit", 3, "--reason", "fixed")
    states = [cli("jobs", verb, 1, "--format", "json").json["state"] for verb in ("pause", "resume", "show")]
    query("select webhook.job_step()")
    second = cli(*line)
    looked = cli("jobs", "cancel", 2, "--dry-run", "--format", "json")
    ended = cli("jobs", "cancel", 2, "--format", "json")
    followed = cli("jobs", "show", 1, "--follow", "--format", "json")

    filters = {"state": "dead", "tenant": "t"}
    assert {"action": "retry", "filters": filters, "rate": 50, "total": 3, "reason": "fixed"}.items() <= made.json.items()
    assert ["paused", "running", "running"] == states
    assert [1, 2, 3] == [row["id"] for row in query("select id from webhook.pending order by id")]
    assert (2, "running", "cancelled") == (second.json["total"], looked.json["state"], ended.json["state"])
    assert ("done", 3) == (followed.json["state"], followed.json["done"])
    assert [2, 1] == [row["id"] for row in cli("jobs", "list", "--format", "json").json]
    assert view_columns(query, "webhook.jobs") == list(made.json)


# -- stats and check -------------------------------------------------------------------------------------------------


def test_stats_say_what_there_is(cli: Cli, query: Query, deliver: Callable[..., None]) -> None:
    """Backlog, in flight, the oldest due, endpoints by state, the dead of 24 hours."""
    cli("endpoints", "add", URL)
    paused = cli("endpoints", "add", URL, "--event-type", "b", "--format", "json").json["id"]
    cli("endpoints", "pause", paused)
    cli("enqueue", "a", "--payload", "1")
    deliver("dead", "http_status")
    cli("enqueue", "a", "--payload", "1")
    query("select webhook.drain_wake(1000)")
    record = cli("stats", "--format", "json").json

    assert {
        "backlog": 1, "backlog_is_estimate": False, "in_flight": 0, "endpoints_enabled": 1, "endpoints_paused": 1,
        "endpoints_disabled": 0, "dead_last_24h": 1,
    }.items() <= record.items()  # fmt: skip
    assert 0 < record["oldest_due_seconds"] < 60
    assert "1 enabled, 1 paused, 0 disabled" in cli("stats").out


def test_stats_say_how_large_the_tables_are(cli: Cli) -> None:
    """Each table once, with its partitions in it, and after it the oldest snapshot, here none."""
    record = cli("stats", "--format", "json").json
    names = [table["table_name"] for table in record["tables"]]

    assert ["tables", "oldest_snapshot"] == list(record)[-2:]
    assert {"event", "finished", "attempt", "pending", "wake"} <= set(names)
    assert [] == [name for name in names if names.count(name) > 1 or name.endswith("_default")]
    assert {"table_name", "bytes", "live_rows", "dead_rows"} == set(record["tables"][0])
    assert record["oldest_snapshot"] is None


@pytest.mark.parametrize(
    ("kind", "seconds", "pid", "result"),
    [
        ("session", check.SNAPSHOT_WARN_SECONDS + 1, 7, "warn"), ("session", 1.0, 7, "ok"),
        ("replication slot", None, None, "warn"), ("replication slot", None, 7, "ok"), ("standby", None, 7, "ok"),
    ],
)  # fmt: skip
def test_an_old_snapshot_is_a_warning_that_names_its_holder(
    kind: str, seconds: float | None, pid: int | None, result: str
) -> None:
    """Older than five minutes, or held for a standby that is not there."""
    holder = {"kind": kind, "seconds": seconds, "pid": pid, "name": "report", "user_name": None, "state": None}
    finding = check._judge_snapshot(holder)

    assert (result, result == "warn") == (finding.result, f"by the {kind} report" in finding.detail)


@pytest.mark.fault(53)
def test_who_holds_a_snapshot_open_is_named(cli: Cli, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By `check`, which warns, and by `stats`: the session's name, its process, its user, and what it does."""
    monkeypatch.setattr(check, "SNAPSHOT_WARN_SECONDS", 0)
    said: list[Done] = []

    async def hold() -> int:
        holder = connect(dsn)
        await holder.script(["set application_name = 'forgetful'"])
        async with holder.transaction():
            await holder.script(["declare held cursor for select 1"])
            said.append(await anyio.to_thread.run_sync(cli, "check", "--format", "json"))
            said.append(await anyio.to_thread.run_sync(cli, "stats"))
            pid: int = await holder.value("select pg_backend_pid()")
        await holder.close()
        return pid

    pid = anyio.run(hold)
    (finding,) = (finding for finding in said[0].json if finding["check"] == "oldest snapshot")
    (line,) = (line for line in said[1].out.splitlines() if "oldest snapshot" in line)
    for told in (finding["detail"], line):
        assert f"by the session forgetful, process {pid} (" in told
        assert "idle in transaction" in told
    assert "warn" == finding["result"]


def test_a_delivery_is_found_by_the_type_of_a_kept_event(cli: Cli, query: Query) -> None:
    """Also when its event's partition is gone."""
    cli("endpoints", "add", URL)
    cli("enqueue", "order.created", "--payload", "1")
    query("with gone as (delete from webhook.event returning *) insert into webhook.event_kept "
          "select id, created_at, tenant, event_type, content_type, payload from gone")  # fmt: skip

    assert 1 == len(cli("deliveries", "list", "--event-type", "order.created", "--format", "json").json)


def test_a_backlog_beyond_the_bound_is_marked_as_an_estimate(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """No big table is counted."""
    monkeypatch.setattr(stats, "COUNTED_MAX", 2)
    cli("endpoints", "add", URL)
    for _ in range(3):
        cli("enqueue", "a", "--payload", "1")

    assert cli("stats", "--format", "json").json["backlog_is_estimate"]
    assert "about 3 (estimate)" in cli("stats").out


def results(done: Done) -> dict[str, str]:
    return {record["check"]: record["result"] for record in done.json}


def test_a_fresh_database_passes_every_check(cli: Cli) -> None:
    """All ok, one line each, 0."""
    done = cli("check")

    assert (0, {"ok"}) == (done.code, {line.split()[0] for line in done.out.splitlines()})
    assert {
        "database",
        "encoding",
        "schema",
        "functions",
        "partitions",
        "default partitions",
        "wake",
        "backlogs",
        "oldest snapshot",
    } == set(results(cli("check", "--format", "json")))


def test_check_warns_of_what_is_not_as_it_should_be(cli: Cli, query: Query) -> None:
    """Other functions, rows in a default partition, a wake that nobody drains: warnings, 0."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    query("update webhook.meta set functions_hash = 'other'")
    query("update webhook.wake set run_at = run_at - interval '1 minute'")
    query("insert into webhook.event values (9, '1999-01-01', '', 'a', 'text/plain', '')")
    done = cli("check", "--format", "json")

    assert 0 == done.code
    assert {"functions": "warn", "default partitions": "warn", "wake": "warn", "schema": "ok"}.items() <= results(done).items()


def test_check_fails_without_this_weeks_partition(cli: Cli, query: Query) -> None:
    """1: rows already go to the default partition."""
    name = query("select min(inhrelid::regclass::text) as name from pg_inherits where inhparent = 'webhook.event'::regclass "
                 "and inhrelid <> 'webhook.event_default'::regclass")[0]["name"]  # fmt: skip
    query(f"drop table {name}")
    done = cli("check", "--format", "json")

    assert (1, "fail") == (done.code, results(done)["partitions"])


def test_check_fails_if_wake_has_not_been_drained_for_minutes(cli: Cli, query: Query) -> None:
    """1: no worker is running."""
    cli("endpoints", "add", URL)
    cli("enqueue", "a", "--payload", "1")
    query("update webhook.wake set run_at = run_at - interval '1 hour'")

    assert 1 == cli("check").code


def test_tenants_are_set_listed_and_checked(cli: Cli, query: Query) -> None:
    """What `tenants set` prints is what `list` has; at its limit a tenant fails the check."""
    assert 3 == cli("tenants", "list").code
    done = cli("tenants", "set", "acme", "--weight", "2", "--backlog-max", "10", "--format", "json")
    assert {"tenant": "acme", "weight": 2.0, "backlog_max": 10, "backlog": 0} == {
        name: value for name, value in done.json.items() if name != "backlog_at"
    }
    assert [done.json] == cli("tenants", "list", "--format", "json").json
    query("update webhook.tenant set backlog = 10")
    assert "fail" == results(cli("check", "--format", "json"))["backlogs"]
    assert cli("tenants", "set", "acme", "--backlog-max", "none", "--format", "json").json["backlog_max"] is None
    assert 2 == cli("tenants", "set", "acme").code


def test_check_refuses_another_encoding(cli: Cli, new_database: Callable[[str], str]) -> None:
    """78: only UTF-8 holds every payload."""
    done = cli("check", "--database-url", new_database("encoding 'LATIN1' locale 'C' template template0"))

    assert (78, True) == (done.code, "LATIN1" in done.out)


def test_check_refuses_a_schema_for_newer_workers(cli: Cli, query: Query) -> None:
    """78: this worker is too old."""
    query("update webhook.meta set oldest_worker = '99.0.0'")
    done = cli("check", "--format", "json")

    assert (78, "fail") == (done.code, results(done)["schema"])


def test_what_was_done_is_listed(cli: Cli) -> None:
    """Who, when, why, what; the newest first, by filters and in pages."""
    made = cli("endpoints", "add", URL, "--reason", "ticket 1", "--format", "json").json
    cli("endpoints", "pause", made["id"], "--reason", "ticket 2")
    cli("tenants", "set", "acme", "--weight", "2", "--reason", "ticket 3")
    entries = cli("audit", "list", "--format", "json").json

    assert [("tenant.set", "ticket 3"), ("endpoint.pause", "ticket 2"), ("endpoint.create", "ticket 1")] == [
        (entry["action"], entry["reason"]) for entry in entries
    ]
    assert {actor()} == {entry["actor"] for entry in entries}
    assert {"url": URL, "tenant": ""} == entries[-1]["details"]
    for filters, ids in (
        (("--endpoint", made["id"]), [1, 2]),
        (("--action", "endpoint"), [1, 2]),
        (("--action", "endpoint.pause"), [1]),
        (("--since", "1h", "--actor", actor(), "--limit", 1), [0]),
        (("--after", entries[0]["id"], "--limit", 1), [1]),
    ):
        assert [entries[n]["id"] for n in ids] == [
            entry["id"] for entry in cli("audit", "list", *filters, "--format", "json").json
        ]
    assert 3 == cli("audit", "list", "--actor", "nobody").code


def test_check_security_says_how_keys_are_sealed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at all, in part, with a key that is to be retired, with one that is missing, or as they should be."""

    def found() -> tuple[str, str]:
        (finding,) = [one for one in cli("check", "--security", "--format", "json").json if one["check"] == "signing keys"]
        return finding["result"], finding["detail"]

    assert ("ok", "there are none") == found()
    cli("endpoints", "add", URL)
    assert "there is no key file" in found()[1]
    path = tmp_path / "key"
    monkeypatch.setenv("WEBHOOK_WORKER_KEY_FILE", str(path))
    older, newer = (cli("keys", "new", name).out for name in ("older", "newer"))
    path.write_text(older)
    assert "; the key file can be read by others: chmod 600" in found()[1]
    path.chmod(0o600)
    assert ("warn", "1 stored unsealed: `webhook-worker keys rotate` seals them") == found()
    assert {"sealed_with": "older", "keys": 1, "failed": 0} == cli("keys", "rotate", "--format", "json").json
    assert ("ok", "sealed with older") == found()
    path.write_text(newer + older)
    assert ("ok", "sealed, some with older: `webhook-worker keys rotate` ends that") == found()
    path.write_text(newer)
    assert ("warn", "sealed with older, which this key file does not hold") == found()
    done = cli("keys", "rotate")
    assert 1 == done.code
    assert "1 keys are as they were" in done.err


def test_check_security_says_what_is_open(cli: Cli) -> None:
    """Unsealed keys, allowed networks and plain http are named."""
    cli("endpoints", "add", URL)
    found = results(cli("check", "--security", "--allow-http", "--format", "json"))

    assert ("warn", "warn", "warn") == (found["signing keys"], found["private networks"], found["plain http"])


@pytest.mark.parametrize("weeks", [0, 1, check.WEEKS_AHEAD_MIN])
def test_partitions_are_judged_by_the_table_that_has_fewest(weeks: int) -> None:
    """None is a failure, few is a warning."""
    finding = check._judge_partitions({"event": 5, "finished": weeks, "attempt": 5})

    assert {0: "fail", 1: "warn", check.WEEKS_AHEAD_MIN: "ok"}[weeks] == finding.result


# -- what reaches the terminal ---------------------------------------------------------------------------------------


def test_a_piped_table_is_a_line_a_record(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the width: aligned, nothing cut off, and no blanks at the end."""
    monkeypatch.setenv("COLUMNS", "80")
    long = "x" * 20_000
    emit_list([{"id": 7, "text": "a", "last": None}, {"id": 12345, "text": long, "last": ""}], Format.table)

    assert [
        "   id  " + "text".ljust(20_000) + "  last",
        "    7  " + "a".ljust(20_000) + "  -",
        "12345  " + long,
    ] == capsys.readouterr().out.splitlines()


def test_a_table_fits_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Long cells are folded, not cut off."""
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, no colours
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    emit_list([{"id": 7, "text": "x" * 300}], Format.table)
    printed = capsys.readouterr().out

    assert 80 >= max(len(line) for line in printed.splitlines())
    assert 300 == printed.replace("text", "").count("x")


@pytest.mark.parametrize("format_", ["table", "json", "jsonl"])
def test_escape_sequences_do_not_reach_the_terminal(cli: Cli, deliver: Callable[..., None], format_: str) -> None:
    """Neither control characters, nor right-to-left overrides, nor rich's markup are acted on."""
    evil = "[red]\x1b[31m\x9b31m\x07\u202e\x7f"
    made = cli("endpoints", "add", URL, "--tenant", evil, "--format", "json").json
    cli("enqueue", "a", "--payload", "1", "--tenant", evil)
    deliver("dead", "http_status", evil)
    cli("endpoints", "pause", made["id"], "--reason", evil)
    printed = [
        cli(*line.split(), "--format", format_)
        for line in ("endpoints list", "endpoints show 1", "deliveries list", "deliveries show 1", "attempts list")
    ]

    assert [] == [c for done in printed for c in done.out + done.err if not c.isprintable() and c != "\n"]
    assert all("[red]" in done.out for done in printed[:3])


# -- the real thing --------------------------------------------------------------------------------------------------


def run_process(dsn: str, *argv: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "DATABASE_URL": dsn, "WEBHOOK_WORKER_ALLOW_NETWORKS": "127.0.0.0/8"}
    return subprocess.run([sys.executable, "-m", "worker", *argv], input=data, capture_output=True, env=environ, check=False)


def test_the_way_from_an_empty_database_to_a_queued_event(empty_dsn: str) -> None:
    """As an operator does it, each command a process: migrate, add, enqueue from a pipe, list."""
    migrated = run_process(empty_dsn, "migrate", "up")
    added = run_process(empty_dsn, "endpoints", "add", URL, "--format", "json")
    queued = run_process(empty_dsn, "enqueue", "order.created", "--file", "-", data=b'{"n":  1}\n')
    listed = run_process(empty_dsn, "deliveries", "list", "--format", "json")

    assert [0, 0, 0, 0] == [done.returncode for done in (migrated, added, queued, listed)]
    assert {"id", "url", "key"} <= set(json.loads(added.stdout))
    assert int(queued.stdout) == json.loads(listed.stdout)[0]["event_id"]


def test_a_process_exits_with_the_commands_code(dsn: str) -> None:
    """`python -m worker` passes the code on."""
    assert 3 == run_process(dsn, "endpoints", "show", "404").returncode


def test_help_lists_run_and_demo_and_forwards_to_run() -> None:
    """`run` starts without typer, and is still in the list; its own help comes from its own parser."""
    listed = run_process("", "--help")
    run = run_process("", "run", "--help")

    assert (0, 0) == (listed.returncode, run.returncode)
    assert all(word in listed.stdout for word in (b"run", b"demo", b"endpoints"))
    assert b"--drain-timeout" in run.stdout


def test_a_reader_that_leaves_is_no_crash() -> None:
    """`webhook-worker migrate sql | head -1` prints no traceback."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "worker", "migrate", "sql"], stdout=write, stderr=subprocess.PIPE, check=False)
    os.close(write)

    assert (1, b"") == (done.returncode, done.stderr)
