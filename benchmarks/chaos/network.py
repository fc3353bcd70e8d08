"""A network of its own for some workers, with one cable to the database and another to everybody else."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from benchmarks.chaos.commands import CannotRunError, is_root, run
from benchmarks.compare.installed import debian


@dataclass(frozen=True)
class Network:
    """A network namespace. `database_address` and `address` are our ends of the two cables."""

    name: str
    database_address: str
    address: str

    @property
    def prefix(self) -> list[str]:
        """What to put before a command that is to run in it; it becomes that command, by the same process id."""
        return ["nsenter", f"--net=/run/netns/{self.name}"]

    async def cut(self) -> None:
        """Unplug the cable to the database: packets vanish, nobody is told."""
        await run("ip", "link", "set", _cable("d"), "down")

    async def mend(self) -> None:
        """Plug it in again."""
        await run("ip", "link", "set", _cable("d"), "up")


def _cable(which: str) -> str:
    return f"chaos{which}{os.getpid()}"


@asynccontextmanager
async def network() -> AsyncIterator[Network]:
    """Make one; it is gone afterwards. Raises CannotRunError where that is not allowed."""
    if not is_root():
        raise CannotRunError("only root may make a network namespace")
    debian("ip", "iproute2")
    third = os.getpid() % 250
    made = Network(f"chaos{os.getpid()}", f"10.213.{third}.1", f"10.213.{third}.5")
    await run("ip", "netns", "add", made.name)
    try:
        await run("ip", "-n", made.name, "link", "set", "lo", "up")
        for which, ours, theirs in (("d", made.database_address, 2), ("r", made.address, 6)):
            cable, far = _cable(which), f"far{which}"
            await run("ip", "link", "add", cable, "type", "veth", "peer", "name", far, "netns", made.name)
            await run("ip", "addr", "add", f"{ours}/30", "dev", cable)
            await run("ip", "link", "set", cable, "up")
            await run("ip", "-n", made.name, "addr", "add", f"10.213.{third}.{theirs}/30", "dev", far)
            await run("ip", "-n", made.name, "link", "set", far, "up")
        yield made
    finally:
        for which in ("d", "r"):
            await run("ip", "link", "del", _cable(which), check=False)
        await run("ip", "netns", "del", made.name, check=False)
