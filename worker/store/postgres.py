"""The pipeline's Store in Postgres: a batch crosses the driver as one JSON value each way."""

import base64
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from worker.core.escape import escape
from worker.core.headers import check_headers
from worker.core.model import Claim, Delivery, Endpoint, Outcome
from worker.core.retention import Retention
from worker.core.sealing import CannotUnsealError, KeyRing
from worker.core.signing import Ed25519Key, Signer, SigningKey
from worker.core.trace import trace_headers
from worker.pipeline.ports import NOBODY, Avoid, Claimed, StoreError
from worker.store.codec import dumps, loads
from worker.store.database import Database, connect
from worker.store.migrate import Schema, read_schema
from worker.store.sql import statements

log = logging.getLogger("worker.store")

ENDPOINTS_CACHED_MAX = 10_000

WITHHOLD_FAILED_SECONDS = 1.0
"""An endpoint that can neither be sent to nor be paused comes back with the next claim: not more often than this."""


class PostgresStore:
    """A connection each for claims, records, leases, housekeeping and repeated sends, which never wait for each other."""

    def __init__(
        self, dsn: str, worker: str, key_ring: KeyRing | None = None, connect: Callable[[str], Database] = connect
    ) -> None:
        self._worker, self._key_ring = worker, key_ring or KeyRing()
        self._claims, self._records, self._leases, self._house, self._plans = (connect(dsn) for _ in range(5))
        self._planning, self._keeping = anyio.Lock(), anyio.Lock()
        self._sql = statements()
        self._endpoints: dict[int, tuple[tuple[int, list[Any]], Endpoint]] = {}

    async def claim(self, rows_max: int, bytes_max: int, avoid: Avoid = NOBODY, wait_seconds: float = 0.0) -> Claimed:
        """See `worker.pipeline.ports.Store`."""
        if self._claims.is_pooled:  # who waits in a pool's connection keeps it from those who have something to record
            wait_seconds = 0.0
        endpoints, tenants = ",".join(map(str, avoid.endpoints)), dumps(list(avoid.tenants))
        document = loads(
            await self._claims.value(self._sql["claim"], self._worker, rows_max, bytes_max, endpoints, tenants, wait_seconds)
        )
        if document["claim"] is None or not document["deliveries"]:
            more, full, waited, worked = (document[key] for key in ("more", "full", "waited", "worked"))
            return Claimed(document["now"], more=more, full=full, waited_seconds=waited, worked_seconds=worked)
        claim = Claim(document["claim"], document["lease"], 0.0)
        of = {int(key): self._endpoint(int(key), value) for key, value in document["endpoints"].items()}
        for endpoint in of.values():
            if endpoint.withheld and not await self._withhold(endpoint):
                break  # the lease runs, and the others' turn comes with their next claim
        now, rows, traces = document["now"], document["deliveries"], document["traces"] or {}
        deliveries = [
            Delivery(
                claim, id_, of[endpoint_id], attempt, attempts_before,
                None if send_after is None else now + send_after,
                event_id, content_type, None if payload is None else payload.encode(), False, now - due, now - created,
                trace=trace_headers(traces.get(str(event_id))) if traces else (),
            )
            for (id_, endpoint_id, attempt, attempts_before, send_after, event_id, content_type, payload), (due, created)
            in zip(rows, document["ages"], strict=True)
        ]  # fmt: skip
        return Claimed(
            now, claim, deliveries,
            document["more"], document["full"], document["waited"], document["worked"], document["weights"],
        )  # fmt: skip

    async def record(self, outcomes: Sequence[Outcome], now: float) -> int:
        """See `worker.pipeline.ports.Store`."""
        changed: int = await self._records.value(
            self._sql["record"], self._worker, dumps([_row(outcome, now) for outcome in outcomes])
        )
        return changed

    async def extend(self, claims: Sequence[int]) -> set[int]:
        """See `worker.pipeline.ports.Store`."""
        kept: str = await self._leases.value(self._sql["extend"], ",".join(map(str, claims)))
        return {int(claim) for claim in kept.split(",") if claim}

    async def plan_again(self, delivery: Delivery) -> float | None:
        """See `worker.pipeline.ports.Store`."""
        async with self._planning:  # any lane may ask
            planned: float | None = await self._plans.value(self._sql["plan_again"], delivery.claim.id, delivery.id)
            return planned

    async def has_due(self) -> bool:
        """See `worker.pipeline.ports.Store`."""
        return bool(await self._claims.value(self._sql["has_due"]))

    async def reap(self) -> int:
        """Take back expired leases; return how many deliveries became due again or dead."""
        async with self._keeping:
            return int(await self._house.value(self._sql["reap"]))

    async def maintain(self, retention: Retention) -> dict[str, Any]:
        """Take one turn of housekeeping; return what was done, with `task`, or nothing if no task was due."""
        async with self._keeping:
            done: dict[str, Any] = loads(
                await self._house.value(
                    self._sql["maintain"],
                    retention.idempotency_keys_seconds,
                    retention.events_seconds,
                    retention.deliveries_seconds,
                    retention.attempts_seconds,
                )
            )
        return done

    async def sample_queue(self) -> dict[str, Any]:
        """Say what the queue looks like: see `worker.service.sampler.Sample`. It waits for housekeeping, and never long."""
        async with self._keeping:
            sample: dict[str, Any] = loads(await self._house.value(self._sql["sample_queue"]))
            return sample

    async def read_schema(self) -> Schema:
        """Ask the database again what it says of itself: see `worker.store.migrate.read_schema`."""
        async with self._keeping:
            return await read_schema(self._house)

    async def report(self, report: dict[str, Any]) -> bool:
        """Write down what this worker says of itself; return whether an operator has asked it to drain."""
        async with self._keeping:
            return bool(await self._house.value(self._sql["report_worker"], self._worker, dumps(report)))

    async def forget_me(self) -> None:
        """Say that this worker ends, so that it is listed no more."""
        async with self._keeping:
            await self._house.value(self._sql["forget_worker"], self._worker)

    async def close(self) -> None:
        """Close the connections."""
        for database in (self._claims, self._records, self._leases, self._house, self._plans):
            await database.close()

    def _endpoint(self, id_: int, settings: dict[str, Any]) -> Endpoint:
        """Build an endpoint when it changed, not once a batch. Keys expire without a new version, so they count too."""
        known = self._endpoints.get(id_)
        if known is not None and known[0] == (settings["version"], settings["keys"]):
            return known[1]
        if len(self._endpoints) >= ENDPOINTS_CACHED_MAX:
            self._endpoints.clear()
        endpoint = read_endpoint(id_, settings, self._key_ring)
        if not endpoint.withheld:
            self._endpoints[id_] = (settings["version"], settings["keys"]), endpoint
        return endpoint

    async def _withhold(self, endpoint: Endpoint) -> bool:
        """Pause an endpoint whose keys cannot be unsealed: for all workers, until somebody has looked. False if it failed."""
        try:
            async with self._planning:
                if await self._plans.value(self._sql["withhold"], endpoint.id, self._worker, endpoint.problem):
                    log.error("endpoint %d is paused: %s", endpoint.id, endpoint.problem, extra={"endpoint_id": endpoint.id})
        except StoreError as error:  # it is given back all the same, and the next claim of it tries again
            log.warning(
                "endpoint %d cannot be paused (%s), though %s",
                endpoint.id,
                error,
                endpoint.problem,
                extra={"endpoint_id": endpoint.id},
            )
            await anyio.sleep(WITHHOLD_FAILED_SECONDS)
            return False
        return True


def read_endpoint(id_: int, settings: Mapping[str, Any], key_ring: KeyRing) -> Endpoint:
    """Read an endpoint as a claim tells of it; what is wrong with it is in `problem`."""
    headers = {name: str(value) for name, value in settings["headers"].items()}
    problem: str | None = None
    keys: tuple[Signer, ...] = ()
    withheld = False
    try:
        check_headers(headers)
    except ValueError as error:  # somebody wrote it past the functions that check
        problem = str(error)
    try:
        keys = tuple(read_signer(id_, key_ring, *key) for key in settings["keys"])
    except CannotUnsealError as error:
        problem, withheld = f"a signing key cannot be unsealed: {error}", True
    return Endpoint(
        id_,
        settings["version"],
        settings["tenant"],
        settings["url"],
        tuple(headers.items()),
        settings["timeout"],
        tuple(settings["retry"]),
        keys,
        problem,
        settings["transport"],
        withheld,
    )


def read_signer(
    endpoint_id: int, key_ring: KeyRing, scheme: str, stored: str, sealed_with: str | None
) -> SigningKey | Ed25519Key:
    """Read a key as it is stored, in base64, or raise CannotUnsealError."""
    secret = key_ring.unseal(base64.b64decode(stored), sealed_with, endpoint_id, scheme)
    try:
        return Ed25519Key(secret) if scheme == "v1a" else SigningKey(secret)
    except Exception as error:  # noqa: BLE001 - what somebody wrote past our functions must not stop everybody's deliveries
        raise CannotUnsealError(f"it is no {scheme} key: {type(error).__name__}") from None


def _row(outcome: Outcome, now: float) -> list[Any]:
    """The array that functions/300_record.sql documents; Postgres keeps microseconds, and digits beyond them cost."""
    delivery, decision, exchange = outcome.delivery, outcome.decision, outcome.exchange
    return [
        delivery.claim.id,
        delivery.id,
        decision.disposition,
        decision.outcome,
        exchange.status,
        round(now - outcome.started, 6),
        round(outcome.duration_seconds, 6),
        escape(exchange.body) if exchange.body else None,
        exchange.error and escape(exchange.error.encode("utf-8", "backslashreplace")),
        decision.retry_seconds,
        decision.hold_seconds,
        decision.disable_reason,
    ]
