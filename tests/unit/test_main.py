"""What happens before a command is chosen."""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from worker import __main__ as main


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return what the process was replaced by, were it not for the test."""
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _, arguments: calls.append(arguments))
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "worker", "run", "--once"])
    monkeypatch.setattr(sys, "executable", "/somewhere/python")
    return calls


def test_pypy_starts_again_with_a_larger_nursery(monkeypatch: pytest.MonkeyPatch, executed: list[list[str]]) -> None:
    """As itself, with the same arguments; the second time the variable is set, and it goes on."""
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
    for name in main.GC:
        monkeypatch.setenv(name, "to be restored after the test")
        monkeypatch.delenv(name)
    main._make_room()
    assert [["/somewhere/python", "-m", "worker", "run", "--once"]] == executed
    assert dict(os.environ) | main.GC == os.environ
    main._make_room()
    assert 1 == len(executed)


def test_the_unit_says_the_same() -> None:
    """Under systemd the environment comes from a drop-in, so that nothing has to start again."""
    drop_in = (Path(__file__).parents[2] / "deploy/systemd/pypy.conf").read_text()
    assert "Environment=" + " ".join(f"{name}={value}" for name, value in main.GC.items()) in drop_in.splitlines()


def test_whoever_sets_the_nursery_decides(monkeypatch: pytest.MonkeyPatch, executed: list[list[str]]) -> None:
    """And CPython has none."""
    monkeypatch.setenv("PYPY_GC_NURSERY", "8M")
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="pypy"))
    main._make_room()
    monkeypatch.delenv("PYPY_GC_NURSERY")
    monkeypatch.setattr(sys, "implementation", SimpleNamespace(name="cpython"))
    main._make_room()
    assert ([], None) == (executed, os.environ.get("PYPY_GC_NURSERY"))
