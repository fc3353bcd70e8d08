"""Workers as units of a real systemd, put in place by the installer: see real-systemd.sh for how it is booted."""

import itertools
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import anyio
import pytest
from conftest import administer, with_database
from fleet import ROOT, Receiver, until
from real_systemd import SHARE, SOURCE, Guest, booted, why_not
from servers import PostgresServer, needs_postgres, owned_directory

from worker.store.database import Database, connect

pytestmark = [pytest.mark.alone, pytest.mark.skipif(bool(why_not()), reason=why_not()), needs_postgres, pytest.mark.sql]

PYPY = (ROOT / ".venv-pypy").resolve()
HAS_PYPY = (PYPY / "bin/webhook-worker").exists() and PYPY.parts[1] not in ("root", "home", "tmp")  # which units do not see
INSTALL = f"{SOURCE}/deploy/install.sh"
INSTANCES = ["1", "2", "watched", *(["pypy-1", "pypy-2"] if HAS_PYPY else [])]
FLEET = [f"webhook-worker@{name}" for name in INSTANCES if name != "watched"]
WATCHED = "webhook-worker@watched"
EXPOSURE_MAX = 1.5
NUMBERS = itertools.count()

HANGS = """
import time
import httpx

class Hangs(httpx.AsyncBaseTransport):
    async def handle_async_request(self, request):
        time.sleep(3600)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A Postgres on a socket that the guest sees as well."""
    with owned_directory() as share:
        server = PostgresServer(share)
        server.initialize()
        try:
            server.start()
            server.make_database()
            yield server
        finally:
            server.stop()


@pytest.fixture(scope="module")
def installed(server: PostgresServer) -> Iterator[Guest]:
    """A systemd with the workers installed; those on PyPy run in this checkout's environment."""
    with booted(server.directory) as guest:
        guest.run(INSTALL, "1")
        if HAS_PYPY:
            guest.run("ln", "-s", str(PYPY), "/opt/webhook-worker/pypy")
        guest.run(INSTALL, "--units-only", *INSTANCES)
        guest.write(f"/etc/systemd/system/{WATCHED}.service.d/test.conf", "[Service]\nWatchdogSec=3\nRestartSec=0.1\n")
        guest.write(
            "/etc/webhook-worker/environment", "WEBHOOK_WORKER_ALLOW_NETWORKS=127.0.0.0/8\nWEBHOOK_WORKER_ALLOW_HTTP=1\n"
        )
        for name in INSTANCES:
            if name.startswith("pypy-"):
                guest.run("sh", "-c", f"echo PYTHONPATH={SOURCE} >> /etc/webhook-worker/{name}.env")
        guest.run("systemctl", "daemon-reload")
        yield guest


@pytest.fixture
def name(server: PostgresServer) -> Iterator[str]:
    """A migrated database."""
    name, postgres = f"webhook_{next(NUMBERS)}", with_database(server.dsn, "postgres")
    administer(postgres, f"create database {name} template webhook")
    yield name
    administer(postgres, f"drop database {name} with (force)")


@pytest.fixture
async def database(server: PostgresServer, name: str) -> AsyncIterator[Database]:
    """This test's."""
    connection = connect(with_database(server.dsn, name))
    yield connection
    await connection.close()


@pytest.fixture
def guest(installed: Guest, name: str) -> Iterator[Guest]:
    """The systemd, its workers stopped, and pointed to this test's database."""
    credential = "/etc/credstore/webhook-worker.database_url"
    installed.write(credential, f"postgresql://postgres@/{name}?host={SHARE}\n")
    installed.run("chmod", "600", credential)
    installed.run("cp", f"{SOURCE}/deploy/systemd/limits.toml", "/etc/webhook-worker/limits.toml")
    yield installed
    print(installed.journal("webhook-worker@*")[-8000:])  # noqa: T201 - pytest shows it if the test has failed
    installed.run("systemctl", "stop", "webhook-worker@*", check=False)
    installed.run("systemctl", "reset-failed")


async def add_endpoint(database: Database, url: str, settings: str = "{}") -> None:
    await database.rows("select * from webhook.create_endpoint($1, settings => $2::text::jsonb)", url, settings)


async def enqueue(database: Database, first: int, count: int) -> None:
    numbers = "generate_series($1::int, $1::int + $2::int - 1)"
    await database.rows(f"select webhook.enqueue('t', i::text) from {numbers} as i", first, count)


async def unfinished(database: Database) -> int:
    return int(await database.value("select (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)"))


async def finished(database: Database) -> bool:
    return not await unfinished(database)


def each_once(receiver: Receiver, events: int) -> bool:
    """Whether every event came, exactly once."""
    return Counter(arrival.body.decode() for arrival in receiver.arrivals) == Counter(map(str, range(events)))


def test_installed(guest: Guest) -> None:
    """All is where it belongs, and another time installs over it and keeps settings; the units are without fault."""
    guest.write("/etc/webhook-worker/limits.toml", "concurrency = 3\n")
    guest.run(INSTALL, "--units-only", "1")
    assert "concurrency = 3\n" == guest.run("cat", "/etc/webhook-worker/limits.toml").stdout
    modes = guest.run("stat", "-c", "%a %U %n", "/etc/credstore", "/opt/webhook-worker/cpython/bin/webhook-worker").stdout
    assert "700 root /etc/credstore\n755 root /opt/webhook-worker/cpython/bin/webhook-worker\n" == modes
    assert guest.run("webhook-worker", "version").stdout
    assert {"enabled"} == {guest.show(unit, "UnitFileState") for unit in (*FLEET, "webhook-worker.target")}
    verified = guest.run("systemd-analyze", "verify", *(f"{unit}.service" for unit in FLEET), "webhook-worker.target")
    assert ("", "") == (verified.stdout, verified.stderr)


@pytest.mark.parametrize("unit", FLEET[:1] + FLEET[2:3])
def test_exposure(guest: Guest, unit: str) -> None:
    """What systemd counts as exposed is little, on both runtimes; PyPy may write code and run it, CPython may not."""
    said = guest.run("systemd-analyze", "security", "--no-pager", f"{unit}.service").stdout
    found = re.search(r"exposure level for \S+ ([\d.]+)", said)
    assert found
    assert float(found[1]) <= EXPOSURE_MAX
    assert ("no" if "pypy" in unit else "yes") == guest.show(unit, "MemoryDenyWriteExecute")


async def test_start(guest: Guest, database: Database) -> None:
    """The target starts the instances, each as its own user; they are ready, say how it goes, deliver, and end with it."""
    async with Receiver().listening() as receiver:
        await add_endpoint(database, f"http://localhost:{receiver.port}/")
        await guest.systemctl("start", "webhook-worker.target")
        await until(lambda: all(guest.show(unit, "ActiveState") == "active" for unit in FLEET))
        assert all(re.match("delivering|waiting for", guest.show(unit, "StatusText")) for unit in FLEET)
        await until(lambda: re.fullmatch("delivering 0/s, backlog 0, oldest 0 s", guest.show(FLEET[-1], "StatusText")))
        await enqueue(database, 0, 200)
        await until(lambda: each_once(receiver, 200))
        users = [guest.run("ps", "-o", "user:40=", "-p", guest.show(unit, "MainPID")).stdout.strip() for unit in FLEET]
        assert [unit.replace("webhook-worker@", "webhook-") for unit in FLEET] == users
        environment = guest.run("cat", f"/proc/{guest.show(FLEET[0], 'MainPID')}/environ").stdout
        assert "CREDENTIALS_DIRECTORY=" in environment
        assert "postgresql://" not in environment
        await guest.systemctl("stop", "webhook-worker.target")
        await until(lambda: all(guest.show(unit, "ActiveState") == "inactive" for unit in FLEET))
    for unit in FLEET:
        assert "success" == guest.show(unit, "Result")
        assert re.search(r"webhook-worker\[\d+\]: .*delivers with 64 lanes(.|\n)*stopped: \d+ delivered", guest.journal(unit))


@pytest.mark.fault(54)
async def test_stop_under_load(guest: Guest, database: Database) -> None:
    """A stop under load drains: nothing is lost, nothing is left in flight, and nothing comes twice when they go on."""
    events, both = 4000, [FLEET[0], FLEET[-1]]
    async with Receiver(pause=0.05).listening() as receiver:
        await add_endpoint(database, receiver.url(), '{"max_in_flight": 1000}')
        await guest.systemctl("start", *both)
        await enqueue(database, 0, events)
        await until(lambda: len(receiver.arrivals) > 300)
        await guest.systemctl("stop", *both)
        arrived = len(receiver.arrivals)
        assert arrived < events
        assert 0 == await database.value("select count(*) from webhook.inflight")
        assert events - arrived == await unfinished(database)
        assert ["success"] * 2 == [guest.show(unit, "Result") for unit in both]
        await guest.systemctl("start", *both)
        await until(lambda: finished(database), every=0.2)
        assert each_once(receiver, events)
    assert all("draining: " in guest.journal(unit) for unit in both)


async def test_rolling_restart(guest: Guest, database: Database) -> None:
    """Instances on both runtimes are restarted one after the other under load: every event arrives, exactly once."""
    events, stop = 0, anyio.Event()

    async def produce() -> None:
        nonlocal events
        while not stop.is_set():
            await enqueue(database, events, 40)
            events += 40
            with anyio.move_on_after(0.1):
                await stop.wait()

    async with Receiver(pause=0.02).listening() as receiver:
        await add_endpoint(database, receiver.url(), '{"max_in_flight": 1000}')
        await guest.systemctl("start", *FLEET)
        before = [guest.show(unit, "MainPID") for unit in FLEET]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(produce)
            for unit in FLEET:
                await guest.systemctl("restart", unit)
            stop.set()
        assert not set(before) & {guest.show(unit, "MainPID") for unit in FLEET}
        await until(lambda: finished(database), every=0.2)
        assert each_once(receiver, events)
    assert 0 == await database.value("select count(*) from webhook.attempts where outcome <> 'ok'")


@pytest.mark.fault(58)
async def test_watchdog(guest: Guest, database: Database) -> None:
    """A worker whose event loop hangs, here in somebody's own transport, is killed and started again, and delivers."""
    guest.write(f"{SHARE}/hangs.py", HANGS)
    guest.write(f"{SHARE}/transports.toml", '[hangs]\nfactory = "hangs:Hangs"\n')
    settings = f"PYTHONPATH={SHARE}\nWEBHOOK_WORKER_TRANSPORTS={SHARE}/transports.toml\n"
    guest.write("/etc/webhook-worker/watched.env", settings)
    async with Receiver().listening() as receiver:
        await add_endpoint(database, receiver.url("/hangs"), '{"transport": "hangs", "event_types": ["hangs"]}')
        await add_endpoint(database, receiver.url(), '{"event_types": ["t"]}')
        await guest.systemctl("start", WATCHED)
        first = guest.show(WATCHED, "MainPID")
        await database.value("select webhook.enqueue('hangs', 'x')")
        await until(
            lambda: guest.show(WATCHED, "NRestarts") == "1" and guest.show(WATCHED, "ActiveState") == "active", every=0.2
        )
        assert first != guest.show(WATCHED, "MainPID")
        await enqueue(database, 0, 10)
        await until(lambda: each_once(receiver, 10))
    assert "Watchdog timeout" in guest.journal(WATCHED)


@pytest.mark.fault(45)
async def test_outage(guest: Guest, server: PostgresServer, database: Database) -> None:
    """A database that is away, or does not answer, for longer than the watchdog waits is no reason to kill a worker."""
    async with Receiver().listening() as receiver:
        await add_endpoint(database, receiver.url())
        await guest.systemctl("start", WATCHED)
        process = guest.show(WATCHED, "MainPID")
        async with database.transaction():
            await database.script(["lock table webhook.endpoint_sched"])
            await anyio.sleep(4)  # longer than the watchdog waits
        listening = server.directory / ".s.PGSQL.5432"
        away = listening.rename(server.directory / "away")
        await database.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid()"
        )
        await until(lambda: guest.show(WATCHED, "StatusText").startswith("the database is away since"))
        await anyio.sleep(4)
        away.rename(listening)
        await enqueue(database, 0, 10)
        await until(lambda: each_once(receiver, 10))
        assert ("active", process, "0") == tuple(guest.show(WATCHED, what) for what in ("ActiveState", "MainPID", "NRestarts"))
        await until(lambda: guest.show(WATCHED, "StatusText").startswith("delivering"))


async def test_reload(guest: Guest, database: Database) -> None:
    """A reload lets the limits file hold that is there now; one that is wrong changes nothing, and the log says why."""
    unit = FLEET[0]

    async def reload(text: str, said: str) -> None:
        guest.write("/etc/webhook-worker/limits.toml", text)
        await guest.systemctl("reload", unit)
        await until(lambda: re.search(said, guest.journal(unit)))
        await until(lambda: guest.show(unit, "SubState") == "running")

    await guest.systemctl("start", unit)
    process = guest.show(unit, "MainPID")
    await reload("concurrency = 3", "limits read again: 3 lanes, slow share 0.5, 20 s to drain")
    await reload("concurrency = 0", "the limits stay as they were: .*concurrency: '0' is not a number")
    assert process == guest.show(unit, "MainPID")


async def test_metrics(guest: Guest) -> None:
    """Each instance has an address of its own, where the sandbox hides nothing of what belongs there."""
    settings = guest.run("sh", "-c", "cat /etc/webhook-worker/*.env").stdout
    ports = re.findall(r"^WEBHOOK_WORKER_METRICS_LISTEN=127\.0\.0\.1:(\d+)$", settings, re.MULTILINE)
    assert len(FLEET) <= len(ports) == len(set(ports))
    await guest.systemctl("start", FLEET[0])
    shown = ""

    async def scraped() -> bool:
        nonlocal shown
        fetch = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9101/metrics').read().decode())"
        shown = guest.run("/opt/webhook-worker/cpython/bin/python", "-c", fetch, check=False).stdout
        return "webhook_worker_build_info" in shown

    await until(scraped)
    for name in ("process_cpu_seconds_total", "process_open_fds", "process_max_fds", "process_resident_memory_bytes"):
        assert f"\n{name} " in shown


async def test_bad_configuration(guest: Guest) -> None:
    """A wrong setting ends the start with 78 and its reason, and nothing tries again."""
    guest.write("/etc/webhook-worker/watched.env", "WEBHOOK_WORKER_ALLOW_PORTS=many\n")
    assert 0 != guest.run("systemctl", "start", WATCHED, check=False).returncode
    assert ["failed", "78", "0"] == [guest.show(WATCHED, what) for what in ("ActiveState", "ExecMainStatus", "NRestarts")]
    assert "WEBHOOK_WORKER_ALLOW_PORTS: " in guest.journal(WATCHED)


async def test_uninstalled(guest: Guest) -> None:
    """The installer takes away what it has put in place, running workers too; settings and credentials stay."""
    await guest.systemctl("start", FLEET[0])
    guest.run(INSTALL, "--uninstall")
    assert ("not-found", "inactive") == (guest.show(FLEET[0], "LoadState"), guest.show(FLEET[0], "ActiveState"))
    left = guest.run("find", "/opt/webhook-worker", "/usr/local/bin/webhook-worker", check=False).stdout
    left += guest.run("find", "/usr/local/share", "-name", "*webhook-worker*").stdout
    assert "" == left
    units = guest.run("find", "/etc/systemd/system", "-path", "*webhook-worker*", "-not", "-type", "d").stdout
    assert [f"/etc/systemd/system/{WATCHED}.service.d/test.conf"] == units.split()  # whoever ran this test put it there
    guest.run(INSTALL, "--uninstall")  # there is nothing left, which is no error
    assert guest.run("cat", "/etc/webhook-worker/environment", "/etc/credstore/webhook-worker.database_url").stdout
