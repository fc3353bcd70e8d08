"""The receiver of `dev`, whose output somebody reads slowly, or not at all."""

import threading
from collections.abc import Mapping
from typing import Any

import anyio
import pytest

from worker.core.signing import SigningKey
from worker.dev.lookup import Key, Lookup
from worker.dev.loopback import Posted
from worker.dev.printer import Printer

KEY = SigningKey(b"k" * 32)


class Known(Lookup):
    """One endpoint, 7, of a URL that is not the printer's; and no events."""

    def __init__(self) -> None:
        pass

    async def keys(self, url: str | None = None) -> list[tuple[int, Key]]:
        return [(7, KEY)] if url is None else []

    async def event(self, _: int) -> tuple[str, str] | None:
        return None


def posted(webhook_id: str) -> Posted:
    signature = KEY.sign(f"{webhook_id}.1.{{}}".encode())
    return Posted({"webhook-id": webhook_id, "webhook-timestamp": "1", "webhook-signature": signature}, b"{}", 0.0)


async def test_nobody_waits_for_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered while printing hangs; what is too much is counted, and the rest is shown in its order."""
    monkeypatch.setattr("worker.dev.printer.WAITING_MAX", 2)
    begun, read_on = threading.Event(), threading.Event()
    shown: list[Any] = []
    said: list[str] = []

    def show(record: Mapping[str, Any]) -> None:
        begun.set()
        assert read_on.wait(30)
        shown.append((record["webhook_id"], record["endpoint_id"]))

    printer = Printer("http://127.0.0.1:1/", Known(), show, said.append)
    async with anyio.create_task_group() as group:
        group.start_soon(printer.show_all)
        assert 204 == await printer.answer(posted("msg_0"))
        await anyio.to_thread.run_sync(begun.wait, 30)
        assert [204] * 5 == [await printer.answer(posted(f"msg_{n}")) for n in range(1, 6)]
        read_on.set()
        printer.close()
    assert [("msg_0", 7), ("msg_1", 7), ("msg_2", 7)] == shown
    (line,) = said
    assert line.startswith("3 requests were answered, and not shown")
