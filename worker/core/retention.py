"""How long what is finished is kept."""

from dataclasses import dataclass

from worker.core.backoff import parse_duration

KEEP_SECONDS = 30 * 86_400.0


@dataclass(frozen=True, slots=True)
class Retention:
    """Seconds after which old rows go; None keeps them for ever. Nothing unfinished ever goes."""

    events_seconds: float | None = KEEP_SECONDS
    deliveries_seconds: float | None = KEEP_SECONDS
    attempts_seconds: float | None = KEEP_SECONDS
    idempotency_keys_seconds: float | None = KEEP_SECONDS


def parse_retention(text: str) -> float | None:
    """Read `30d` or `never` as seconds or None; ValueError for anything else."""
    try:
        return None if text == "never" else parse_duration(text)
    except ValueError as error:
        message = f"{error}, and not 'never'"
        raise ValueError(message) from None
