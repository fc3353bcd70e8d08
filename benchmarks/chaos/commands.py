"""Other programs, run to their end; and what this machine cannot do."""

import os
import subprocess

import anyio

from benchmarks.compare.installed import CannotRunError

__all__ = ["CannotRunError", "is_root", "run"]


def is_root() -> bool:
    """Whether this process may make networks and mounts."""
    return os.geteuid() == 0


async def run(*command: str, check: bool = True) -> int:
    """Run a command and return its status. Raises CannotRunError, with its last words, if it fails."""
    done = await anyio.run_process(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
    if check and done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        raise CannotRunError(f"{' '.join(command)}: {said[0] if said else f'status {done.returncode}'}")
    return done.returncode
