"""docs/reference/settings.md: the options of `run`, what its code reads from the environment, and what the database holds."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import patch

from reference.markdown import code, page, prose, table
from reference.refusals import condition
from worker.cli import run
from worker.cli.limits import LimitSettings
from worker.service import logs
from worker.settings import (
    ConfigurationError,
    Settings,
    is_tracing_wanted,
    read_choice,
    read_database_url,
    read_metrics_endpoints,
    read_metrics_listen,
    read_retention,
)
from worker.store.database import Database, Row

INTRODUCTION = """
What a worker can be told, and by what. An option wins over the environment, and that over a credentials file. Commands read the
same variables, where they talk to the database or judge URLs. What an endpoint can be told is with
[`endpoints add`](cli.md#endpoints-add); how settings are used is in [operations](../operations.md#settings).
"""

PREFIX = "WEBHOOK_WORKER_"

TYPES = {
    "CIDR": "network", "PORTS": "ports", "FILE": "path", "URL": "URL", "ADDRESS": "host:port", "D": "duration, or never",
    "N": "whole number", "S": "duration, seconds if it has no unit",
}  # fmt: skip
"""By what stands for the value in the help."""

WITHOUT_OPTION = {
    "CREDENTIALS_DIRECTORY": "a directory with the files `database_url` and `key` (systemd's `LoadCredential=`)",
    "WEBHOOK_WORKER_KEY_FILE": "a file, in place of the credential `key`: what signing keys are "
    "[sealed with](../operations.md#signing-keys). There is no option: everybody may read a command line",
    "OTEL_SDK_DISABLED": "`true`: no [traces](../tracing.md)",
    "OTEL_TRACES_EXPORTER": "`otlp` or `none`",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "where traces are sent; without it, or the next one, none are made",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "the same, for traces alone",
}

OTHERS = """
Two more are read before anything else, and only on PyPy: `PYPY_GC_NURSERY` and `PYPY_GC_MIN`
([why](../adr/0016-room-for-pypys-nursery.md)). `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID` and `JOURNAL_STREAM` are
systemd's, and nothing to set by hand.
"""

OF_THE_DATABASE = """
What holds for a whole database, whoever works on it, is in the one row of `webhook.meta`. Its owner (`webhook_owner`, with
[roles](../operations.md#rights)) may change it while everything runs; it holds from the next call on, and nothing is restarted.
"""

CHANGED = """
```sql
UPDATE webhook.meta SET circuit_failures = 20, circuit_pause_max = '10 min', disable_after = '14 days';
```

A tenant's weight and its backlog limit are set by [`tenants set`](cli.md#tenants-set). The other columns of `webhook.meta` are
the system's own.
"""

NO_SETTINGS = ["one", "schema_version", "oldest_worker", "functions_hash", "message_id_prefix"]

META = """
select a.attname as name, format_type(a.atttypid, a.atttypmod) as type, pg_get_expr(d.adbin, d.adrelid) as initial,
       col_description(a.attrelid, a.attnum) as comment,
       array(select pg_get_constraintdef(c.oid) from pg_constraint as c
             where c.conrelid = a.attrelid and c.contype = 'c' and a.attnum = any (c.conkey) order by c.conname) as checks
from pg_attribute as a join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = 'webhook.meta'::regclass and a.attnum > 0 and a.attname <> all ($1::text[]) order by a.attnum
"""


class Recorder(dict[str, str]):
    """An environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def get(self, key: str, default: Any = None) -> Any:
        """Remember, and know nothing."""
        self.asked.append(key)
        return default


def variables() -> list[str]:
    """Return the names that a worker asks its environment for, if no option was given."""
    recorder, arguments = Recorder(), run._parser().parse_args([])
    with patch.object(os, "environ", recorder):
        with suppress(ConfigurationError):  # there is none
            read_database_url()
        Settings.load(database_url="postgresql://")
        LimitSettings.of(arguments)
        read_choice("log-format", logs.FORMATS)
        read_choice("log-level", logs.LEVELS)
        read_metrics_listen()
        read_metrics_endpoints()
        read_retention(dict.fromkeys(run.RETAINED))
        is_tracing_wanted()
    return list(dict.fromkeys(recorder.asked))


async def text(database: Database) -> str:
    """Return the page."""
    return page("Settings", INTRODUCTION, *_parts(), *_of_the_database(await database.rows(META, NO_SETTINGS)))


def _parts() -> Iterator[str]:
    asked = variables()
    options = [action for action in run._parser()._actions if action.dest != "help"]
    named = {variable for action in options for variable in _names(action)}
    yield "## Options of a worker"
    rows = [_row(action, next((name for name in _names(action) if name in asked), "")) for action in options]
    yield table(("option", "environment", "type", "default", ""), rows)
    yield "## Environment only"
    yield table(("environment", ""), [(code(name), WITHOUT_OPTION[name]) for name in asked if name not in named])
    yield OTHERS


def _of_the_database(columns: list[Row]) -> Iterator[str]:
    yield "## Of a database"
    yield OF_THE_DATABASE
    yield table(("column", "type", "default", "holds", ""), [_column(**column) for column in columns])
    yield CHANGED


def _column(name: str, type: str, initial: str, comment: str | None, checks: list[str]) -> tuple[str, ...]:  # noqa: A002
    assert comment, f"webhook.meta.{name} has no comment: give it one in sql/functions/800_comments.sql"
    default = re.sub(r"'(.*)'::.*", r"\1", initial)
    return code(name), type, code(default), ", ".join(code(condition(check)) for check in checks), prose(comment)


def _names(action: argparse.Action) -> tuple[str, ...]:
    """Return what the variable that stands for an option may be called: the plural, if it can be repeated."""
    name = action.dest.upper()
    return (f"{PREFIX}{name}", f"{PREFIX}{name}S", name)


def _row(action: argparse.Action, variable: str) -> tuple[str, ...]:
    kind = TYPES.get(str(action.metavar), "")
    if action.dest == "slow_share":
        kind = "number above 0, up to 1"
    elif action.choices:
        kind = prose(", ".join(action.choices))
    elif action.metavar is None:
        kind = "yes or no"
    options = " ".join(code(option) for option in action.option_strings)
    words, _, default = (action.help or "").replace(" (30d; 'never' drops none)", " (default 30d)").partition(" (default")
    return options, code(variable), kind, prose(default.strip(" :)")), prose(words)
