"""Registering endpoints from code: what producer services use for their own customers, and what the command line uses.

    async with Endpoints(dsn, actor="shop") as endpoints:
        created = await endpoints.create("https://example.com/hook", tenant="acme", event_types=["order.*"], rate=5)
        hand_over(created.key)  # shown once

Everything is checked before it is written: the URL, the headers, the limits, the keys, and every address that the host
resolves to now. Each change leaves a row in `webhook.audit` with `actor` and `reason`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import anyio

from worker.core.address import Network
from worker.core.endpoint_settings import (
    EndpointRefusedError,
    EndpointSettings,
    NewEndpoint,
    check_keys,
    check_url,
    to_changes,
)
from worker.store.codec import dumps, loads
from worker.store.database import Database, DatabaseError, Row, connect
