"""Why a delivery has not been sent, in words."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from worker.cli.output import timestamp

AHEAD_MAX = 10_000
"""So many others of the endpoint are counted, and no more."""

Facts = Mapping[str, Any]


def why(facts: Facts) -> list[str]:
    """Say what stands between a delivery and its next attempt, the weightiest first; `facts` is a row of `delivery_facts`."""
    match facts["state"]:
        case "delivered":
            return [f"it was delivered at {timestamp(facts['finished_at'])}"]
        case "dead":
            used_up = f"its attempts are used up ({facts['attempts']}); the last: {facts['last_error']}"
            return [f"{used_up}. `deliveries retry` starts anew"]
        case "cancelled":
            given_up = f"it was given up at {timestamp(facts['finished_at'])} ({facts['last_error']})"
            return [f"{given_up}. `deliveries retry` brings it back"]
        case "in_flight":
            return [_leased(facts)]
    return list(_waiting(facts))


def _leased(facts: Facts) -> str:
    lease = f"leased by {facts['worker']} until {timestamp(facts['lease_until'])}"
    if facts["lease_until"] < facts["now"]:
        return f"was {lease}, and not heard of since: the next worker that keeps house takes it back"
    return f"{lease}: being sent, or about to be"


def _waiting(facts: Facts) -> Iterator[str]:
    endpoint = f"endpoint {facts['endpoint_id']}"
    if facts["set_aside"]:
        by = f" by {facts['held_by']} since {timestamp(facts['held_at'])}" if facts["held_by"] else ""
        yield f"held{by}{_because(facts['held_reason'])}. `deliveries release` lets it go"
    if facts["endpoint_state"] != "enabled":
        verb = {"paused": "resume", "disabled": "enable"}[facts["endpoint_state"]]
        closed = f"{endpoint} is {facts['endpoint_state']}{_because(facts['endpoint_reason'])}"
        yield f"{closed}. `endpoints {verb}` lets its deliveries go"
    if facts["set_aside"] or facts["endpoint_state"] != "enabled":
        return
    blocked = list(_endpoint_rests(facts, endpoint))
    yield from blocked
    if facts["run_at"] > facts["now"]:
        what = (
            "waiting for its next attempt, by its retry schedule," if facts["attempts"] else "not to be sent before its time,"
        )
        yield f"{what} until {timestamp(facts['run_at'])}"
    elif not blocked:
        behind = _behind(facts)
        yield f"due{behind}: a worker takes it next. If it stays so, is one running? `webhook-worker check` says"


def _endpoint_rests(facts: Facts, endpoint: str) -> Iterator[str]:
    """What the endpoint's own limits and its receiver say."""
    quiet_until = facts["not_before"] if facts["not_before"] and facts["not_before"] > facts["now"] else None
    if facts["circuit"] == "open":
        until = f"open until {timestamp(quiet_until)}, then" if quiet_until else "open, and now"
        yield f"the circuit of {endpoint} is {until} one delivery is sent to see whether the receiver is back"
    elif facts["circuit"] == "half_open":
        yield f"the circuit of {endpoint} is half open: one delivery is out to see whether the receiver is back"
    elif quiet_until:
        yield f"the receiver of {endpoint} asked for quiet until {timestamp(quiet_until)}"
    if facts["in_flight"] >= facts["max_in_flight"]:
        yield f"{endpoint} has {facts['in_flight']} requests in flight, and may have {facts['max_in_flight']}{_behind(facts)}"
    if facts["circuit"] == "closed" and facts["rate"] is not None and facts["run_at"] <= facts["now"]:
        yield from _limited(facts, endpoint)


def _limited(facts: Facts, endpoint: str) -> Iterator[str]:
    """GCRA: the n-th from now goes when TAT - (burst - 1) / rate + n / rate has come."""
    rate = facts["rate"]
    empty_at = max(facts["tat"] or facts["now"], facts["now"])
    turn = max(facts["now"], empty_at + timedelta(seconds=(facts["ahead"] - facts["burst"] + 1) / rate))
    if turn > facts["now"]:
        limit = (
            f"recovering, at {rate:g} a second and more by and by" if facts["recovering"] else f"limited to {rate:g} a second"
        )
        yield f"{endpoint} is {limit}: its turn is about {timestamp(turn)}{_behind(facts)}"


def _behind(facts: Facts) -> str:
    ahead = facts["ahead"]
    if not ahead:
        return ""
    count = f"{AHEAD_MAX:,} or more" if ahead >= AHEAD_MAX else f"{ahead:,}"
    return f", behind {count} other{'s' if ahead > 1 else ''} of its endpoint"


def _because(reason: str | None) -> str:
    return f" ({reason})" if reason else ""
