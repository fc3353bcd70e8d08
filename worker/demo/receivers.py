"""Receivers of five kinds, on sockets of their own. They verify every signature with the public `standardwebhooks` package."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio
import anyio.abc
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from worker.dev.loopback import Posted, open_loopback, serve_loopback

Behaviour = Callable[[], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Arrival:
    """One request as a receiver saw it. `at` is monotonic seconds."""

    message_id: str
    body: str
    status: int
    at: float


@dataclass
class Receiver:
    """A local HTTP server that keeps a log. `behave` says what it answers; 2xx means accepted."""

    behave: Behaviour
    key: str = ""
    arrivals: list[Arrival] = field(default_factory=list)
    bad_signatures: int = 0
    url: str = ""

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Listen on a free port of the loopback interface, for ever."""
        listener, address = await open_loopback()
        self.url = f"{address}/webhooks"
        task_status.started()
        await serve_loopback(listener, self._judge)

    async def _judge(self, request: Posted) -> int:
        try:
            Webhook(self.key).verify(request.body, request.headers)
        except (WebhookVerificationError, ValueError):
            self.bad_signatures += 1
            return 401
        status = await self.behave()
        self.arrivals.append(Arrival(request.headers["webhook-id"], request.body.decode(), status, request.at))
        return status


def healthy() -> Behaviour:
    """Answer 204 at once."""

    async def behave() -> int:
        return 204

    return behave


def flaky(chance: Callable[[], float]) -> Behaviour:
    """Answer 500 half of the time."""

    async def behave() -> int:
        return 500 if chance() < 0.5 else 204

    return behave


def slow(seconds: float) -> Behaviour:
    """Answer 204 after a while."""

    async def behave() -> int:
        await anyio.sleep(seconds)
        return 204

    return behave


def gone() -> Behaviour:
    """Answer 410: do not come back."""

    async def behave() -> int:
        return 410

    return behave
