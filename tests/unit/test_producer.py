"""worker.producer: what it writes into a call, alone and on either runtime."""

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from types import ModuleType
from typing import Any
from uuid import UUID

import pytest

from worker import producer
from worker.producer import Event, Statement, enqueue, enqueue_many

SUMMER = datetime(2026, 7, 1, 12, 30, tzinfo=UTC)
PAYLOADS: list[tuple[Any, str]] = [
    ({"order": 17, "paid": True, "note": None}, '{"order":17,"paid":true,"note":null}'),
    ({"who": "Zoë", "seats": ["A1", "A2"], "euro": 12.5}, '{"who":"Zoë","seats":["A1","A2"],"euro":12.5}'),
    ({"id": UUID(int=1), "at": SUMMER}, '{"id":"00000000-0000-0000-0000-000000000001","at":"2026-07-01T12:30:00+00:00"}'),
    ({"day": date(2026, 7, 1)}, '{"day":"2026-07-01"}'),
    ([], "[]"),
    ('{"order":  17}', '{"order":  17}'),
    ("", ""),
]


@pytest.fixture
def without_orjson(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module as it is where orjson is not installed."""
    monkeypatch.setitem(sys.modules, "orjson", None)
    spec = importlib.util.spec_from_file_location("producer_without_orjson", producer.__file__)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("payload", "text"), PAYLOADS)
def test_payload(payload: Any, text: str, without_orjson: ModuleType) -> None:
    """A text is sent as it is, everything else as JSON; with orjson and without, to the byte."""
    for module in (producer, without_orjson):
        assert text == module.enqueue("order.created", payload).parameters["payload"]
        assert [text] == module.enqueue_many([Event("order.created", payload)]).parameters["payloads"]


@pytest.mark.parametrize("payload", [object(), {"cents": {1, 2}}])
def test_what_is_not_json(payload: Any, without_orjson: ModuleType) -> None:
    """An error names it, before anything was sent."""
    for module in (producer, without_orjson):
        with pytest.raises(TypeError, match="not JSON serializable"):
            module.enqueue("order.created", payload)


@pytest.mark.parametrize(
    "call", [lambda at: enqueue("a", {}, deliver_at=at), lambda at: enqueue_many([Event("a", {})], deliver_at=at)]
)
def test_a_moment_has_a_time_zone(call: Callable[[datetime], Statement]) -> None:
    """A naive one means another moment in every session, so it is refused."""
    assert "2026-07-01T12:30:00+00:00" == call(SUMMER).parameters["deliver_at"]
    with pytest.raises(ValueError, match="deliver_at has no time zone"):
        call(SUMMER.replace(tzinfo=None))


def test_keys_of_many() -> None:
    """They are given if there is one."""
    keyed = [Event("a", {}), Event("a", {}, idempotency_key="k")]
    assert [None, "k"] == enqueue_many(keyed).parameters["idempotency_keys"]
    assert None is enqueue_many(keyed[:1]).parameters["idempotency_keys"]


@pytest.mark.parametrize("statement", [enqueue("a", {}), enqueue_many([Event("a", {})])], ids=["one", "many"])
def test_the_ways_to_write_it(statement: Statement) -> None:
    """Each names every parameter once."""
    names = list(statement.parameters)
    assert names == re.findall(r"%\((\w+)\)s", statement.sql)
    sql, *values = statement.numbered()
    assert [str(number) for number in range(1, len(names) + 1)] == re.findall(r"\$(\d+)", sql)
    assert list(statement.parameters.values()) == values
    sql, parameters = statement.named()
    assert names == re.findall(r":(\w+)", sql)
    assert statement.parameters == parameters


def test_it_may_be_copied() -> None:
    """The file needs the standard library only: neither the worker, nor a driver, nor orjson."""
    script = "import json, runpy, sys; runpy.run_path(sys.argv[1]); print(json.dumps(list(sys.modules)))"
    command = [sys.executable, "-I", "-S", "-c", script, str(producer.__file__)]
    loaded = {name.partition(".")[0] for name in json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)}
    assert set() == loaded & {"worker", "orjson", "asyncpg", "psycopg", "sqlalchemy", "django"}
    assert set() == {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("_")}
