"""PyPy's compiler is left alone until the worker is warm, and made choosy then."""

import sys
from types import ModuleType

import anyio
import pytest

from worker.service import compiling


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand in for PyPy's compiler, on either runtime; return what it is told."""
    said: list[str] = []
    pypyjit = ModuleType("pypyjit")
    pypyjit.set_param = said.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pypyjit", pypyjit)
    monkeypatch.setattr(sys.implementation, "name", "pypy")
    monkeypatch.setattr(compiling, "LOOK_SECONDS", 0.0)
    return said


async def test_warm(told: list[str]) -> None:
    """It is told once so many are claimed."""
    claimed = iter([0, compiling.WARM_DELIVERIES - 1, compiling.WARM_DELIVERIES])
    said_before: list[int] = []

    def count() -> int:
        said_before.append(len(told))
        return next(claimed)

    await compiling.settle_compiler(count)
    assert said_before == [0, 0, 0]
    assert told == [compiling.FROM_THEN_ON]


async def test_elsewhere(told: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such compiler, nothing waits for it."""
    monkeypatch.setattr(sys.implementation, "name", "cpython")
    with anyio.fail_after(1):
        await compiling.settle_compiler(lambda: 0)
    assert told == []


@pytest.mark.skipif(sys.implementation.name != "pypy", reason="it is PyPy's")
def test_understood() -> None:
    """PyPy takes these words; an unknown one it refuses."""
    import pypyjit

    pypyjit.set_param(compiling.FROM_THEN_ON)
    pypyjit.set_param("default")
    with pytest.raises(ValueError, match="JIT parameters"):
        pypyjit.set_param("nonsense=1")
