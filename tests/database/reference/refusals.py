"""docs/reference/errors.md: exit codes, SQLSTATEs, constraints, outcomes of attempts, and why a URL is refused."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from reference.functions import Catalogue
from reference.markdown import code, page, prose, table
from worker.cli.app import app
from worker.core import address, circuit, url
from worker.settings import ExitCode
from worker.store.database import Database, Row

ROOT = Path(__file__).parents[3]

INTRODUCTION = """
What can go wrong, by the word or number under which it is told. [Troubleshooting](../troubleshooting.md) says what to do.
"""

CODES = """
When each is given is said with [the command line](../cli.md#exit-codes); after which of them a worker is to be started again,
in [operations](../operations.md#exit-codes).
"""

RAISED = """
What the functions raise by themselves. [SQL functions](sql.md) has it by function, with the hints that say what to do next.
"""

HOLD = """
What is stored is within these, whoever stores it; else Postgres raises `23514`, check_violation, and names the constraint.
"""

ENDED = """
The column `outcome` of `webhook.attempts`, the first word of `last_error`, and the label `outcome` of the metrics. Those that
are ours do not count against the receiver's [circuit](../concepts.md#the-circuit).
"""

URLS = """
An endpoint may not have a URL of which one of these is said. It is looked at when it is registered, and at each request.
"""

ADDRESSES = """
Those in these networks, and of IPv6 all outside of `2000::/3`, whatever name they have. `--allow-network` makes exceptions;
`--deny-network` adds to them, and has the last word. `endpoints explain` names the rule.
"""

OUTCOMES = {
    "ok": "the receiver answered 2xx",
    "http_status": "it answered, and not with 2xx; the status is beside it",
    "timeout": "no complete response head before the deadline",
    "dns": "its name has no address, or the resolver did not answer in time",
    "blocked_address": "one of its addresses is denied",
    "blocked_port": "its port is denied",
    "bad_url": "its URL is not one that this worker sends to",
    "connect": "no connection: refused, unreachable, or not in time",
    "tls_handshake": "TLS was not agreed on, or not in time",
    "tls_certificate": "its certificate is not to be trusted, for another reason than the next three",
    "tls_expired": "its certificate is not valid now",
    "tls_hostname": "its certificate is for another host",
    "tls_self_signed": "its certificate was signed by itself, or by a root that nobody knows",
    "disconnected": "it closed the connection without a complete response head",
    "protocol_error": "what it answered is not HTTP/1.1",
    "no_transport": "this worker has no transport of the name that the endpoint asks for",
    "no_key": "every signing key of the endpoint has expired",
    "bad_endpoint": "the endpoint's settings cannot be used",
    "event_missing": "the event has outlived its retention",
    "interrupted": "the worker was stopped, or the delivery taken from it, before an answer came",
    "lease_expired": "the worker died, froze, or was cut off for longer than its lease",
    "internal_error": "a bug of ours: please report it",
}
"""Each of these is somewhere in the code, and no other: `outcomes()` looks."""

NO_OUTCOMES = {"no_files", "released"}
"""Of what is given back unsent, which is no attempt."""

CONSTRAINED = ("endpoint", "endpoint_sched", "job", "meta", "tenant")

KEPT_BY_FUNCTIONS = (
    "endpoint_sched_check", "endpoint_sched_circuit", "endpoint_sched_in_flight", "endpoint_sched_state",
    "job_state", "meta_one",
)  # fmt: skip
"""What nobody can break from outside."""

CHECKS = """
select c.conrelid::regclass::text as of_table, c.conname as name, pg_get_constraintdef(c.oid) as definition
from pg_constraint as c
where c.contype = 'c' and c.conrelid in (select ('webhook.' || t)::regclass from unnest($1::text[]) as t)
order by 1, 2
"""


async def text(database: Database) -> str:
    """Return the page."""
    catalogue = await Catalogue.read(database)
    checks = await database.rows(CHECKS, list(CONSTRAINED))
    return page("Errors", INTRODUCTION, *_exit_codes(), *_sqlstates(catalogue), *_constraints(checks), *_outcomes(), *_urls())


def _exit_codes() -> Iterator[str]:
    said = dict(re.findall(r"(\d+) ([a-z ]+)", str(app.info.help).partition("Exit codes:")[2]))
    yield "## Exit codes"
    yield table(("code", "", "name"), [(str(each.value), said[str(each.value)], code(each.name)) for each in ExitCode])
    yield CODES


def _sqlstates(catalogue: Catalogue) -> Iterator[str]:
    messages: dict[tuple[str, str], set[str]] = defaultdict(set)
    for name in {function.name for function in catalogue.functions}:
        for refusal in catalogue.refusals(name):
            messages[refusal.sqlstate, refusal.condition].add(prose(refusal.message))
    yield "## SQLSTATEs"
    yield RAISED
    rows = [(code(state), code(name), "<br>".join(sorted(of))) for (state, name), of in sorted(messages.items())]
    yield table(("SQLSTATE", "condition", "messages"), rows)


def _constraints(checks: list[Row]) -> Iterator[str]:
    yield "## Constraints"
    yield HOLD
    rows = [
        (code(row["of_table"]), code(row["name"]), code(condition(row["definition"])))
        for row in checks if not row["name"].startswith(KEPT_BY_FUNCTIONS)
    ]  # fmt: skip
    yield table(("table", "constraint", "holds"), rows)


def condition(definition: str) -> str:
    """Return the expression of CHECK ((…)), without what Postgres spells out: casts, and parentheses around numbers."""
    expression = definition.removeprefix("CHECK (").removesuffix(")").removeprefix("(").removesuffix(")")
    expression = re.sub(r"::(text\[\]|text|double precision|interval|numeric)", "", expression)
    return re.sub(r"\('?(\d[\d.]*)'?\)", r"\1", expression)


def _outcomes() -> Iterator[str]:
    found = outcomes()
    assert found == OUTCOMES.keys(), f"say what it means, or that it is gone: {found ^ OUTCOMES.keys()}"
    yield "## Outcomes of attempts"
    yield ENDED
    rows = [(code(word), meaning, "ours" if word in circuit.OUR_OWN else "") for word, meaning in OUTCOMES.items()]
    yield table(("outcome", "", ""), rows)


def outcomes() -> set[str]:
    """Find the words in the code: where a failure on the wire, an exchange or a decision is made, and in SQL."""
    found = {"interrupted", "lease_expired"} & set(re.findall(r"'(\w+)'", (ROOT / "sql/functions/300_record.sql").read_text()))
    for layer in ("core", "pipeline", "http"):
        for path in (ROOT / "worker" / layer).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                for part in _naming(node):
                    found |= {
                        one.value for one in ast.walk(part) if isinstance(one, ast.Constant) and isinstance(one.value, str)
                    }
    return {word for word in found if re.fullmatch(r"[a-z_]+", word)} - NO_OUTCOMES


def _naming(node: ast.AST) -> Iterator[ast.AST]:
    """Give the part of a node that names an outcome, if it has one."""
    match node:
        case ast.Call(func=ast.Name(id="WireError"), args=[reason, *_]):
            yield reason
        case ast.Call(func=ast.Name(id="Exchange" | "Decision"), args=arguments, keywords=keywords):
            yield from arguments[1:2]
            yield from (keyword.value for keyword in keywords if keyword.arg == "outcome")
        case ast.Assign(
            targets=[ast.Name(id="outcome" | "reason" | "step" | "_REASONS") | ast.Attribute(attr="outcome")], value=value
        ):
            yield value
        case ast.FunctionDef(name="outcome_of"):
            yield from (inner.value for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value)
        case ast.For(target=ast.Tuple(elts=[_, ast.Name(id="reason")]), iter=cases):
            yield cases


def _urls() -> Iterator[str]:
    yield "## Refused URLs"
    yield URLS
    yield "\n".join(f"- {prose(message)}" for message in bad_urls())
    yield "### Denied addresses"
    yield ADDRESSES
    yield ", ".join(code(str(network)) for network in (*address._DENIED_V4, *address._DENIED_V6)) + "."
    yield "### Denied ports"
    yield "Unless `--allow-port` says which are allowed: " + ", ".join(map(str, sorted(address.BLOCKED_PORTS))) + "."


def bad_urls() -> list[str]:
    """Return what `worker.core.url` says of a URL, in its order; … stands for what is in question."""
    tree = ast.parse(Path(url.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    said = [node.args[0] for node in calls if isinstance(node.func, ast.Name) and node.func.id in ("BadURL", "_refuse")]
    return [_message(node) for node in sorted(said, key=lambda node: node.lineno) if not isinstance(node, ast.Name)]


def _message(node: ast.expr) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    assert isinstance(node, ast.Constant)
    return str(node.value)
