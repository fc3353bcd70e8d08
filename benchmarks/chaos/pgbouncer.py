"""PgBouncer in transaction mode, between some workers and Postgres."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from benchmarks.chaos.commands import is_root
from benchmarks.compare.installed import debian
from benchmarks.compare.ports import free_port, wait_for_port

CONFIGURATION = """
[databases]
webhook = host=127.0.0.1 port={server} dbname=webhook user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 8
server_login_retry = 1
logfile = {folder}/pgbouncer.log
"""


@asynccontextmanager
async def pgbouncer(folder: Path, server_port: int) -> AsyncIterator[str]:
    """Run one, and yield the DSN that goes through it."""
    program = debian("pgbouncer", "pgbouncer")
    port, configuration = free_port(), folder / "pgbouncer.ini"
    configuration.write_text(CONFIGURATION.format(server=server_port, port=port, folder=folder))
    command = ["runuser", "-u", "postgres", "--", program] if is_root() else [program]
    async with await anyio.open_process([*command, "-q", str(configuration)], stderr=subprocess.DEVNULL, cwd="/") as process:
        try:
            await anyio.to_thread.run_sync(wait_for_port, port)
            yield f"postgresql://postgres@127.0.0.1:{port}/webhook?pgbouncer=true"
        finally:
            process.terminate()
