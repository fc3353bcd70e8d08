"""Each example for producers commits once and rolls back once; a real worker brings a real receiver what was committed."""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import psycopg
import pytest
from fleet import ROOT, Receiver, Worker, free_port, until
from node import node_lacks, skip_without_node
from standardwebhooks import Webhook
from test_docs import psql_directory
from test_receiver_examples import Program

from worker.endpoints import EndpointRefusedError
from worker.store.database import Database

pytestmark = pytest.mark.sql

EXAMPLES = ROOT / "examples/producers"
GO_PACKAGES = Path("/usr/share/gocode")
SOLD_OUT = "items_in_stock_check"
STOCK = "insert into items values ('ticket', 100), ('relic', 0)"


@dataclass
class Shop:
    """A database with the shop's tables, and one customer whose endpoint is `receiver`."""

    dsn: str
    database: Database
    receiver: Receiver
    key: str

    async def tells(self, orders: int, *events: tuple[str, dict[str, Any]]) -> None:
        """Let a worker deliver what is there: these orders and events, and no others, are there, and arrive, signed."""
        with Worker(self.dsn, "--once") as worker:
            status, said = await worker.wait()
        assert 0 == status, said
        assert orders == await self.database.value("select count(*) from orders")
        assert 100 - orders == await self.database.value("select in_stock from items where name = 'ticket'")
        found = await self.database.rows("select tenant, event_type from webhook.events order by id")
        assert [("acme", event_type) for event_type, _ in events] == [(row["tenant"], row["event_type"]) for row in found]
        key, arrivals = Webhook(self.key), self.receiver.arrivals
        arrived = [key.verify(arrival.body, arrival.headers) for arrival in arrivals]
        assert len(arrived) == len({arrival.headers["webhook-id"] for arrival in arrivals})
        assert sorted(map(_sorted, (payload for _, payload in events))) == sorted(map(_sorted, arrived))

    async def order(self) -> int:
        """Return the only order's id."""
        return int(await self.database.value("select id from orders"))


@pytest.fixture
async def shop(dsn: str, database: Database) -> AsyncIterator[Shop]:
    await database.script([(EXAMPLES / "shop.sql").read_text(), STOCK])
    async with Receiver().listening() as receiver:
        key = await database.value("select key from webhook.create_endpoint($1::text, 'acme')", receiver.url())
        yield Shop(dsn, database, receiver, key)


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Import an example by its name."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return importlib.import_module


@asynccontextmanager
async def asyncpg_pool(dsn: str) -> AsyncIterator[Any]:
    asyncpg = pytest.importorskip("asyncpg", reason="asyncpg is for CPython")
    async with asyncpg.create_pool(dsn, min_size=1, max_size=1) as pool:
        yield pool


@asynccontextmanager
async def psycopg_connection(dsn: str) -> AsyncIterator[Any]:
    with psycopg.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def psycopg_async_connection(dsn: str) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        yield connection


@asynccontextmanager
async def sqlalchemy_engine(dsn: str) -> AsyncIterator[Any]:
    sqlalchemy = pytest.importorskip("sqlalchemy", reason="the extra examples is not installed")
    engine = sqlalchemy.create_engine(dsn.replace("postgresql", "postgresql+psycopg", 1))
    try:
        yield engine
    finally:
        engine.dispose()


@asynccontextmanager
async def sqlalchemy_async_engine(dsn: str) -> AsyncIterator[Any]:
    asyncio = pytest.importorskip("sqlalchemy.ext.asyncio", reason="the extra examples is not installed")
    engine = asyncio.create_async_engine(dsn.replace("postgresql", "postgresql+asyncpg", 1))
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def sqlalchemy_sessions(dsn: str) -> AsyncIterator[Any]:
    async with sqlalchemy_engine(dsn) as engine:
        from sqlalchemy.orm import sessionmaker

        yield sessionmaker(engine)


CONNECTED: dict[str, Callable[[str], AbstractAsyncContextManager[Any]]] = {
    "with_asyncpg": asyncpg_pool,
    "with_helper": asyncpg_pool,
    "with_psycopg": psycopg_connection,
    "with_psycopg_async": psycopg_async_connection,
    "with_sqlalchemy": sqlalchemy_engine,
    "with_sqlalchemy_async": sqlalchemy_async_engine,
    "with_sqlalchemy_orm": sqlalchemy_sessions,
}


@pytest.mark.parametrize("name", CONNECTED)
async def test_python(name: str, shop: Shop, example: Callable[[str], Any]) -> None:
    """An order and its event; of an item that is sold out, neither."""
    async with CONNECTED[name](shop.dsn) as connected:
        place_order = example(name).place_order
        order = await _done(place_order(connected, "acme", "ticket"))
        with pytest.raises(Exception, match=SOLD_OUT):
            await _done(place_order(connected, "acme", "relic"))
    await shop.tells(1, ("order.created", {"order": order, "customer": "acme", "item": "ticket"}))


@pytest.mark.parametrize("name", ["with_psycopg", "with_helper"])
async def test_many_with_keys(name: str, shop: Shop, example: Callable[[str], Any]) -> None:
    """A job that is started twice on a day tells of each order once; without orders, of none."""
    day = date(2026, 11, 27)
    async with CONNECTED[name](shop.dsn) as connected:
        module = example(name)
        await _done(module.announce_delays(connected, "acme", day))
        orders = [await _done(module.place_order(connected, "acme", "ticket")) for _ in range(2)]
        await _done(module.announce_delays(connected, "acme", day))
        await _done(module.announce_delays(connected, "acme", day))
    created = [("order.created", {"order": order, "customer": "acme", "item": "ticket"}) for order in orders]
    delayed = [("order.delayed", {"order": order, "day": "2026-11-27"}) for order in orders]
    await shop.tells(2, *created, *delayed)


async def test_one_shipping_of_an_order(shop: Shop, example: Callable[[str], Any]) -> None:
    """Shipped twice, told once, of the first time."""
    async with sqlalchemy_sessions(shop.dsn) as sessions:
        module = example("with_sqlalchemy_orm")
        order = module.place_order(sessions, "acme", "ticket")
        module.ship_order(sessions, order)
        module.ship_order(sessions, order)
    created = {"order": order, "customer": "acme", "item": "ticket"}
    shipped = await shop.database.value("select shipped_at from orders")
    await shop.tells(1, ("order.created", created), ("order.shipped", {"order": order, "shipped_at": shipped.isoformat()}))


async def test_two_shippings_at_once(shop: Shop, example: Callable[[str], Any]) -> None:
    """Whichever comes second: the table has the moment that was told."""
    async with sqlalchemy_sessions(shop.dsn) as sessions:
        module = example("with_sqlalchemy_orm")
        order = module.place_order(sessions, "acme", "ticket")
        async with anyio.create_task_group() as group:
            with psycopg.connect(shop.dsn) as first:
                first.execute("select from orders for update")
                for _ in range(2):
                    group.start_soon(anyio.to_thread.run_sync, module.ship_order, sessions, order)
                await until(lambda: both_wait(shop.database))
    created = {"order": order, "customer": "acme", "item": "ticket"}
    shipped = await shop.database.value("select shipped_at from orders")
    await shop.tells(1, ("order.created", created), ("order.shipped", {"order": order, "shipped_at": shipped.isoformat()}))


async def both_wait(database: Database) -> bool:
    waiting = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    return bool(2 == await database.value(waiting))


DJANGO = Path(__file__).with_name("play_django_shop.py")


@pytest.fixture
async def django(shop: Shop, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A browser on Django's example, which uvicorn serves, with what a new project has against forged requests."""
    for needed in ("django", "uvicorn"):
        pytest.importorskip(needed, reason="the extra examples is not installed")
    port, log = str(free_port()), tmp_path / "log"
    serve = [sys.executable, "-m", "uvicorn", f"{DJANGO.stem}:application", "--port", port, "--lifespan", "off"]
    with Program(serve, DJANGO.parent, log, django_environment(shop), int(port)).running():
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as browser:
            yield browser
    assert "Traceback" not in log.read_text()


def django_environment(shop: Shop) -> dict[str, str]:
    return {"DATABASE_URL": shop.dsn, "PYTHONPATH": f"{EXAMPLES}:{ROOT}"}


async def told(shop: Shop) -> list[tuple[str, dict[str, Any]]]:
    """Return what all orders that there are should have told."""
    rows = await shop.database.rows("select id, item from orders order by id")
    return [("order.created", {"order": row["id"], "customer": "acme", "item": row["item"]}) for row in rows]


async def test_django_form(shop: Shop, django: httpx.AsyncClient) -> None:
    """It takes two orders of one customer, and what it refuses leaves neither order nor event."""
    answered = [await by_form(django, item) for item in ("ticket", "ticket", "ticket", "relic")]
    assert [302, 302, 200, 200] == [answer.status_code for answer in answered]
    assert "No more than 2" in answered[2].text
    assert "relic is sold out" in answered[3].text
    forged = await django.post("/order", data={"customer": "acme", "item": "ticket"})
    assert 403 == forged.status_code
    await shop.tells(2, *await told(shop))


async def by_form(browser: httpx.AsyncClient, item: str) -> httpx.Response:
    """Order as a browser does: with the cookie and all fields of the form."""
    form = (await browser.get("/order")).text
    [(name, token)] = re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', form)
    return await browser.post("/order", data={"customer": "acme", "item": item, name: token})


async def test_django_api(shop: Shop, django: httpx.AsyncClient) -> None:
    """Several orders at once, each answered by what became of it."""
    answered: dict[str, httpx.Response] = {}

    async def order(name: str, **data: str) -> None:
        answered[name] = await django.post("/api/orders", data=data)

    async with anyio.create_task_group() as group:
        for n in range(5):
            group.start_soon(partial(order, f"ticket {n}", customer="acme", item="ticket"))
        group.start_soon(partial(order, "sold out", customer="acme", item="relic"))
        group.start_soon(partial(order, "no such item", customer="acme", item="unicorn"))
        group.start_soon(partial(order, "a field is missing", customer="acme"))
    placed = {answered.pop(f"ticket {n}").json()["order"] for n in range(5)}
    assert {"sold out": 409, "no such item": 400, "a field is missing": 400} == {
        name: answer.status_code for name, answer in answered.items()
    }
    assert {"error": "relic is sold out"} == answered["sold out"].json()
    assert ["item"] == list(answered["a field is missing"].json()["errors"])
    events = await told(shop)
    assert placed == {payload["order"] for _, payload in events}
    await shop.tells(5, *events)


async def test_django_without_views(shop: Shop) -> None:
    """An item that was never there is not sold out. And the helper's calls fit Django's cursors."""
    pytest.importorskip("django", reason="the extra examples is not installed")
    assert "orders_item_fkey" == _said([sys.executable, str(DJANGO)], django_environment(shop))
    await shop.tells(0, ("shop.closed", {"until": 9}))


async def test_customers(shop: Shop, example: Callable[[str], Any]) -> None:
    """An endpoint is registered with its key and limits, or refused in words; one that is disabled is in trouble."""
    customers = example("customers")
    key = await customers.add_endpoint(shop.dsn, "globex", "https://8.8.8.8/hook")
    assert 32 == len(b64decode(key.removeprefix("whsec_")))
    with pytest.raises(EndpointRefusedError, match=r"10\.0\.0\.0/8"):
        await customers.add_endpoint(shop.dsn, "globex", "https://10.0.0.1/hook")
    assert [] == await customers.in_trouble(shop.dsn, "globex")
    await shop.database.rows("select webhook.disable_endpoint(id) from webhook.endpoints where tenant = 'globex'")
    (disabled,) = await customers.in_trouble(shop.dsn, "globex")
    assert ("https://8.8.8.8/hook", ("order.*",), 50.0) == (disabled.url, disabled.event_types, disabled.rate)


async def test_a_suite_sees_events(shop: Shop, example: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The example's own test passes, leaves nothing, and fails if an order tells nothing."""
    suite = example("test_orders")
    async with psycopg_connection(shop.dsn) as connection:
        suite.test_an_order_is_told(connection)
        monkeypatch.setattr(suite, "place_order", lambda *_: 1)
        with pytest.raises(ValueError, match="not enough values"):
            suite.test_an_order_is_told(connection)
    await shop.tells(0)


async def test_psql(shop: Shop) -> None:
    """A script, twice."""
    psql = [f"{psql_directory()}/psql", shop.dsn, "-Xq", "-f", str(EXAMPLES / "place_order.sql"), "-v", "customer=acme", "-v"]
    _said([*psql, "item=ticket"])
    with pytest.raises(subprocess.CalledProcessError) as refused:
        _said([*psql, "item=relic"])
    assert SOLD_OUT in refused.value.stderr
    await shop.tells(1, ("order.created", {"order": await shop.order(), "customer": "acme", "item": "ticket"}))


NODE = """
import pg from "pg";
import { placeOrder, shipOrder } from "./orders.js";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const order = await placeOrder(pool, "acme", "ticket");
let refused = "nothing";
try {
  await placeOrder(pool, "acme", "relic");
} catch (error) {
  refused = error.constraint;
}
await shipOrder(pool, order);
await shipOrder(pool, order);
console.log(order, refused);
await pool.end();
"""


async def test_node(shop: Shop) -> None:
    """The same with node-postgres; and an order that is shipped twice, and told of once."""
    said = _node(NODE, shop)
    order = await shop.order()
    assert f"{order} {SOLD_OUT}" == said
    shipped = json.loads(await shop.database.value("select to_json(shipped_at)::text from orders"))
    created = {"order": order, "customer": "acme", "item": "ticket"}
    await shop.tells(1, ("order.created", created), ("order.shipped", {"order": order, "shipped_at": shipped}))


NODE_LOSES_ITS_CONNECTION = """
import pg from "pg";
import { placeOrder } from "./orders.js";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const other = new pg.Client({ connectionString: process.env.DATABASE_URL });
await other.connect();
await other.query("BEGIN");
await other.query("LOCK TABLE items"); // the order waits for this, with its event
const failed = placeOrder(pool, "acme", "ticket").catch((error) => error.code);
const cut = `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE datname = current_database() AND wait_event_type = 'Lock'`;
while ((await pool.query(cut)).rowCount === 0); // not in the other's transaction, which would see the same each time
await other.query("ROLLBACK");
await other.end();
console.log(await failed, await placeOrder(pool, "acme", "ticket"));
await pool.end();
"""


async def test_node_survives_a_lost_connection(shop: Shop) -> None:
    """Its order fails, with its event; the next one does not."""
    code, order = _node(NODE_LOSES_ITS_CONNECTION, shop).split()
    assert "57P01" == code
    await shop.tells(1, ("order.created", {"order": int(order), "customer": "acme", "item": "ticket"}))


def _node(script: str, shop: Shop) -> str:
    """Run a script beside orders.js, and return what it printed."""
    directory = EXAMPLES / "node"
    if reason := node_lacks(directory):
        skip_without_node(reason)
    return _said(["node", "--input-type=module", "--eval", script], {"DATABASE_URL": shop.dsn}, directory)


GO = """
package main

import (
	"context"
	"database/sql"
	"fmt"
	"os"

	_ "github.com/lib/pq"

	"shop"
)

func main() {
	db, err := sql.Open("postgres", os.Getenv("DATABASE_URL"))
	if err != nil {
		panic(err)
	}
	order, err := shop.PlaceOrder(context.Background(), db, "acme", "ticket")
	if err != nil {
		panic(err)
	}
	_, refused := shop.PlaceOrder(context.Background(), db, "acme", "relic")
	fmt.Println(order.ID, refused)
}
"""


async def test_go(shop: Shop, tmp_path: Path) -> None:
    """The same with database/sql, over the driver that Debian has."""
    if not shutil.which("go") or not (GO_PACKAGES / "src/github.com/lib/pq").exists():
        pytest.skip("there is no go, or no Debian package golang-github-lib-pq-dev")
    for path, text in {"shop/orders.go": (EXAMPLES / "go/orders.go").read_text(), "play/main.go": GO}.items():
        file = tmp_path / "src" / path
        file.parent.mkdir(parents=True)
        file.write_text(text)
    environment = {
        "DATABASE_URL": f"{shop.dsn}{'&' if '?' in shop.dsn else '?'}sslmode=disable",
        "GO111MODULE": "off",
        "GOCACHE": str(tmp_path / "cache"),
        "GOPATH": f"{tmp_path}:{GO_PACKAGES}",
    }
    said = _said(["go", "run", "play"], environment)
    order = await shop.order()
    assert said.startswith(f"{order} pq: ")
    assert SOLD_OUT in said
    await shop.tells(1, ("order.created", {"order": order, "customer": "acme", "item": "ticket"}))


def _said(command: list[str], environment: dict[str, str] | None = None, directory: Path = ROOT) -> str:
    """Run a producer and return what it printed."""
    return subprocess.run(
        command, env={**os.environ, **(environment or {})}, cwd=directory, capture_output=True, text=True, check=True
    ).stdout.strip()


async def _done(result: Any) -> Any:
    """Return a function's result, whether it is async or not."""
    return await result if inspect.isawaitable(result) else result


def _sorted(payload: Any) -> str:
    return json.dumps(payload, sort_keys=True)
