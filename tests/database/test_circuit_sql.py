"""The circuit is decided twice, in Python and in SQL: the same for whatever outcomes."""

import json
from datetime import UTC, datetime, timedelta

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from worker.core.circuit import Circuit, Outcomes, Probe, State, judge

NOW = datetime(2027, 1, 15, 12, tzinfo=UTC)
NOW_UNIX = NOW.timestamp()
PROBE, OTHER = 7, 8

AFTER = """
select c.circuit, c.failures, c.failure_ratio, extract(epoch from c.failing_since)::float8, c.openings, c.probe_claim,
       extract(epoch from c.recovering_since)::float8, c.recovered, c.disable is not null,
       case when isfinite(c.not_before) then extract(epoch from c.not_before)::float8 end
from (select jsonb_populate_record(null::webhook.endpoint_sched, %s::text::jsonb || '{"not_before": "-infinity"}') as s,
             jsonb_populate_record(null::webhook.effect, %s::text::jsonb) as e) as given,
     lateral webhook.circuit_after(given.s, given.e, %s) as c
"""

moments = st.none() | st.integers(0, 6 * 86_400).map(lambda ago: NOW_UNIX - ago)
ratios = st.floats(0, 1) | st.sampled_from([1e-300, 1e-10, 5e-324])
counts = st.integers(0, 12) | st.just(20_000)


@st.composite
def circuits(draw: st.DrawFn) -> Circuit:
    state: State = draw(st.sampled_from(("closed", "open", "half_open")))
    return Circuit(
        state=state,
        failures=draw(st.integers(0, 12)),
        failure_ratio=draw(ratios),
        failing_since=draw(moments),
        openings=draw(st.integers(0, 40)),
        probe=PROBE if state == "half_open" else None,
        recovering_since=draw(moments) if state == "closed" else None,
    )


def _json(circuit: Circuit) -> str:
    def at(unix: float | None) -> str | None:
        return None if unix is None else (NOW - timedelta(seconds=NOW_UNIX - unix)).isoformat()

    return json.dumps(
        {
            "circuit": circuit.state,
            "failures": circuit.failures,
            "failure_ratio": circuit.failure_ratio,
            "failing_since": at(circuit.failing_since),
            "openings": circuit.openings,
            "probe_claim": circuit.probe,
            "recovering_since": at(circuit.recovering_since),
        }
    )


def test_as_in_python(dsn: str) -> None:
    """`webhook.circuit_after` is `worker.core.circuit.judge`; only the jitter is each one's own."""
    with psycopg.connect(dsn, autocommit=True) as database:

        @settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(circuits(), counts, counts, st.sampled_from((None, "ok", "failed", "void")))
        def check(circuit: Circuit, ok: int, failed: int, probe: Probe | None) -> None:
            verdicts = {"ok": ok, "failed": failed, "void": 0}
            if circuit.state != "half_open":
                probe = None
            elif probe:
                verdicts[probe] += 1
            judgement = judge(circuit, Outcomes(verdicts["ok"], verdicts["failed"], probe), NOW_UNIX, 0.5)
            claims = {f"{verdict}_claims": [OTHER] * n or None for verdict, n in verdicts.items()}
            if probe:
                claims[f"{probe}_claims"] = [*(claims[f"{probe}_claims"] or [])[1:], PROBE]
            effect = json.dumps(claims)
            row = database.execute(AFTER, [_json(circuit), effect, NOW]).fetchone()
            assert row is not None
            state, failures, ratio, failing_since, openings, probe_claim, recovering_since, recovered, disable, quiet = row
            found = Circuit(state, failures, circuit.failure_ratio, failing_since, openings, probe_claim, recovering_since)
            expected = judgement.circuit
            assert abs(ratio - expected.failure_ratio) < 1e-9
            assert found == Circuit(
                expected.state, expected.failures, circuit.failure_ratio, expected.failing_since, expected.openings,
                expected.probe, expected.recovering_since,
            )  # fmt: skip
            assert (recovered, disable) == (judgement.recovered, judgement.failing_too_long)
            if judgement.pause_until is None:
                assert quiet is None
            else:  # jitter: a fifth either way
                assert abs(quiet - judgement.pause_until) <= 0.2 * (judgement.pause_until - NOW_UNIX) + 1e-3

        check()
