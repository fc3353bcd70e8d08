"""Registering endpoints from code: what producer services use for their own customers, and what the command line uses.

    async with Endpoints(dsn, actor="shop") as endpoints:
        created = await endpoints.create("https://example.com/hook", tenant="acme", event_types=["order.*"], rate=5)
        hand_over(created.key)  # shown once

Everything is checked before it is written: the URL, the headers, the limits, the keys, and every address that the host
resolves to now. Each change leaves a row in `webhook.audit` with its actor and reason.
"""

from worker.endpoints.api import Endpoints
from worker.endpoints.model import (
    CreatedEndpoint,
    EndpointKey,
    EndpointRefusedError,
    EndpointSettings,
    NewEndpoint,
    NewKey,
    NoSuchEndpointError,
    Page,
    RefusedEndpoint,
    RegisteredEndpoint,
    Resealed,
    State,
)

__all__ = [
    "CreatedEndpoint",
    "EndpointKey",
    "EndpointRefusedError",
    "EndpointSettings",
    "Endpoints",
    "NewEndpoint",
    "NewKey",
    "NoSuchEndpointError",
    "Page",
    "RefusedEndpoint",
    "RegisteredEndpoint",
    "Resealed",
    "State",
]
