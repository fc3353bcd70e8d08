"""A Postgres that means it: it syncs, on a disk of its own that can be filled, and is restarted the hard ways."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.chaos.commands import CannotRunError, is_root, run
from benchmarks.compare.installed import debian
from benchmarks.compare.ports import free_port

DISK_MB = 768
START_SECONDS_MAX = 60

# Small segments, so that a full disk is met by the log soon, and not only by tables.
SETTINGS = """
port = {port}
listen_addresses = '{addresses}'
unix_socket_directories = '{folder}'
max_connections = 100
max_wal_size = 64MB
min_wal_size = 2MB
log_min_messages = log
"""


@dataclass(frozen=True)
class Postgres:
    """A running server."""

    folder: Path
    binaries: Path
    port: int

    def dsn(self, address: str = "127.0.0.1") -> str:
        """How to reach it."""
        return f"postgresql://postgres@{address}:{self.port}/webhook"

    @property
    def _data(self) -> Path:
        return self.folder / "disk/data"

    async def start(self) -> None:
        """Start it, unless it runs."""
        if await self._control("status", check=False) != 0:
            await self._control("start", "-w", "-t", str(START_SECONDS_MAX), "-l", str(self.folder / "postgres.log"))

    async def stop(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop it, if it runs. `immediate` is a crash: it has to recover."""
        await self._control("stop", "-w", "-m", mode, check=False)

    def fill_disk(self) -> None:
        """Leave no block on its disk."""
        with (self.folder / "disk/filler").open("wb") as filler:
            size, filled = DISK_MB << 20, 0
            while size >= os.statvfs(filler.name).f_bsize:
                try:
                    os.posix_fallocate(filler.fileno(), filled, size)
                    filled += size
                except OSError:  # so much is not left
                    size //= 2

    async def free_disk(self) -> None:
        """Make room again; and start the server, which may have ended for want of it."""
        (self.folder / "disk/filler").unlink()
        await self.start()

    async def _control(self, *arguments: str, check: bool = True) -> int:
        return await as_server(str(self.binaries / "pg_ctl"), "-D", str(self._data), *arguments, check=check)


async def as_server(*command: str, check: bool = True) -> int:
    """Run a command as the user of the server, who must not be root."""
    return await run(*(["runuser", "-u", "postgres", "--", *command] if is_root() else command), check=check)


@asynccontextmanager
async def postgres(folder: Path, addresses: Sequence[str]) -> AsyncIterator[Postgres]:
    """Run one that listens on these addresses and trusts who can reach them."""
    server = Postgres(folder, find_binaries(), free_port())
    disk = folder / "disk"
    disk.mkdir()
    if is_root():
        await run("mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=0755", "tmpfs", str(disk))
        await run("chown", "postgres", str(folder), str(disk))
    try:
        await as_server(
            str(server.binaries / "initdb"), "-D", str(disk / "data"), "-U", "postgres", "--auth=trust", "--encoding=UTF8",
            "--locale=C.UTF-8", "--wal-segsize=1",
        )  # fmt: skip
        with (disk / "data/postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(port=server.port, addresses=",".join(addresses), folder=folder))
        with (disk / "data/pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\n")
        await server.start()
        await as_server(
            str(server.binaries / "createdb"), "-h", str(folder), "-p", str(server.port), "-U", "postgres", "webhook"
        )
        yield server
    finally:
        await server.stop("immediate")
        if is_root():
            await run("umount", str(disk), check=False)


def find_binaries() -> Path:
    """Return where the newest installed server has its programs."""
    debian("pg_ctlcluster", "postgresql-15")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not installed:
        raise CannotRunError("no PostgreSQL server is installed: apt-get install postgresql-15")
    return installed[-1].parent
