"""What the contestants need on this machine, installed where it is missing: Debian packages, npm packages, a Go program."""

import os
import shutil
import subprocess
from pathlib import Path

CONTESTANTS = Path(__file__).parents[1] / "contestants"
BUILT = Path(__file__).parents[2] / ".bench"
"""The environment of `make bench`, which holds what is built here as well."""


class CannotRunError(RuntimeError):
    """A contestant, or something that the whole suite needs, is not to be had here. The text says why."""


def debian(program: str, *packages: str) -> str:
    """Return the path of a program, from these Debian packages if it is missing."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin"  # where Debian has its servers
    if not (found := shutil.which(program, path=search)):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            raise CannotRunError(f"{program} is missing: apt-get install {' '.join(packages)}")
        _run(["apt-get", "-qq", "update"])
        _run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages], DEBIAN_FRONTEND="noninteractive")
        found = shutil.which(program, path=search)
    if not found:
        raise CannotRunError(f"{' '.join(packages)} brought no {program}")
    return found


def npm(name: str) -> Path:
    """Return a folder with a contestant's JavaScript and the packages that it names."""
    node, folder = debian("npm", "npm"), BUILT / name
    shutil.copytree(CONTESTANTS / name, folder, dirs_exist_ok=True)
    _run([node, "install", "--loglevel", "error", "--no-audit", "--no-fund"], folder)
    return folder


def go(name: str, *packages: str) -> Path:
    """Return a contestant's Go program, built with the libraries that Debian packages."""
    compiler, program = debian("go", "golang-go"), BUILT / name / "worker"
    sources = Path("/usr/share/gocode")
    if not (sources / "src/github.com/jackc").exists():
        _run(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *packages], DEBIAN_FRONTEND="noninteractive")
    environment = {"GO111MODULE": "off", "GOPATH": str(sources), "GOCACHE": str(BUILT / "go-cache"), "GOFLAGS": ""}
    _run([compiler, "build", "-o", str(program), "main.go"], CONTESTANTS / name, **environment)
    return program


def _run(command: list[str], folder: Path | None = None, **environment: str) -> None:
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise CannotRunError(f"{' '.join(command[:3])}: {last[0] if last else f'status {done.returncode}'}")
