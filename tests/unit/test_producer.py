"""worker.producer: what it writes into a call, alone and on either runtime."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def payload_of(payload: Any) -> str:
    """Return what one event and many have as their payload."""
    text: str = enqueue("order.created", payload).parameters["payload"]
    assert [text] == enqueue_many([Event("order.created", payload)]).parameters["payloads"]
    return text


@pytest.mark.parametrize(("payload", "text"), PAYLOADS)
def test_payload(payload: Any, text: str) -> None:
    """A text is sent as it is, everything else as JSON."""
    assert text == payload_of(payload)


@given(JSON)
def test_what_is_json_comes_back(value: Any) -> None:
    """Whatever it is, however large its numbers are: nothing is lost and nothing becomes something else."""
    text = payload_of([value])
    assert [value] == json.loads(text)
    assert repr([value]) == repr(json.loads(text)), "1 is not 1.0 and not True"


WRONG = [
    (object(), TypeError, "not JSON serializable"),
    ({1, 2}, TypeError, "not JSON serializable"),
    (math.nan, ValueError, "not JSON compliant"),
    (-math.inf, ValueError, "not JSON compliant"),
    ({1: "a", "1": "b"}, TypeError, "keys of a payload must be str, not int: 1"),
    ({None: 1}, TypeError, "keys of a payload must be str, not NoneType"),
    ({SUMMER: 1}, TypeError, "keys must be"),
    ("\ud83d", ValueError, "surrogates not allowed"),
    ({"\udc00": 1}, ValueError, "surrogates not allowed"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
@settings(max_examples=20)
@given(data=st.data())
def test_what_is_not_json(wrong: Any, error: type[Exception], message: str, data: st.DataObject) -> None:
    """It is refused, wherever in a payload it is, before anything was sent."""
    with pytest.raises(error, match=message):
        payload_of(inside(wrong, data))


def inside(wrong: Any, data: st.DataObject) -> Any:
    """Return a payload that has this in it, as deep as `data` wants it."""
    payload: Any = [wrong]
    for kind in data.draw(st.lists(st.sampled_from(["list", "dict", "tuple"]), max_size=5)):
        beside = data.draw(JSON)
        payload = {"dict": {"a": beside, "b": payload}, "list": [beside, payload], "tuple": (payload, beside)}[kind]
    return payload


def test_a_payload_within_itself() -> None:
    payload: dict[str, Any] = {}
    payload["self"] = payload
    with pytest.raises(ValueError, match="Circular reference"):
        enqueue("order.created", payload)


@pytest.mark.parametrize("text", ["\ud83d", "Zoë \udc00"])
def test_a_text_that_no_driver_can_send(text: str) -> None:
    """It is sent as it is, if it can be."""
    with pytest.raises(ValueError, match="surrogates not allowed"):
        enqueue("order.created", text)


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
