"""Any order of what producers, workers, operators, housekeeping and time do to the SQL: nothing lost, doubled or stuck.

One hypothesis state machine over a real database, with several connections. A call that would wait for an open producer's
transaction fails by its lock timeout, so "nobody waits for a producer" is part of it. `HYPOTHESIS_EXAMPLES` asks for more.
"""

import json
import os
from typing import Any, ClassVar

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from worker.core.audit import worst_excess

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "15"))
STEPS = 40
DRAIN_ROUNDS_MAX = 400

STEADY: dict[str, Any] = {"rate": 3, "burst": 1, "retry_seconds": [1] * 50}
"""Nobody changes this one's limits, so its planned sends can be audited."""
ENDPOINTS = [
    ("a", STEADY),
    ("a", {"retry_seconds": [1, 60]}),
    ("b", {"max_in_flight": 2}),
    ("b", {"rate": 10, "max_in_flight": 3}),
]

RESET = """
truncate webhook.event, webhook.pending, webhook.inflight, webhook.claim_batch, webhook.wake, webhook.finished, webhook.attempt,
         webhook.endpoint, webhook.endpoint_sched, webhook.endpoint_key, webhook.subscription, webhook.tenant, webhook.fan_out,
         webhook.audit, webhook.idempotency_key;
update webhook.sched_floor set turn = '-infinity', next_at = '-infinity', seen_turn = null, seen_next_at = '-infinity',
    ahead_turn = '-infinity', ahead_next_at = '-infinity', under_way = '{}', look_at_all_at = '-infinity';
update webhook.meta set fan_out_max = 1, circuit_failures = 2;
"""

GUARD = """
create or replace function webhook.guard() returns trigger language plpgsql as $$
begin
    if new.in_flight > old.in_flight and new.in_flight > new.max_in_flight then
        raise exception 'endpoint % has % in flight of at most %', new.endpoint_id, new.in_flight, new.max_in_flight;
    end if;
    if new.in_flight > old.in_flight + (old.circuit <> 'half_open')::int and old.circuit <> 'closed' then
        raise exception 'endpoint % is %, and more than its probe was taken', new.endpoint_id, old.circuit;
    end if;
    if new.next_at < clock_timestamp() - interval '1 s' and new.next_at is distinct from old.next_at
       and current_setting('test.shift', true) is distinct from 'on' then
        raise exception 'endpoint % has a timer in the past', new.endpoint_id;
    end if;
    return new;
end $$;
create or replace trigger guard before update on webhook.endpoint_sched for each row execute function webhook.guard();
"""

WRONG = {
    "in-flight counters that drifted": """
        select s.endpoint_id from webhook.endpoint_sched as s
        where s.in_flight <> (select count(*) from webhook.inflight as i where i.endpoint_id = s.endpoint_id)""",
    "deliveries in two places": """
        select d.id from (select id from webhook.pending union all select id from webhook.inflight
                          union all select id from webhook.finished) as d group by d.id having count(*) > 1""",
    "an event twice for one endpoint": """
        select d.event_id, d.endpoint_id from (
            select event_id, endpoint_id from webhook.pending union all select event_id, endpoint_id from webhook.inflight
            union all select event_id, endpoint_id from webhook.finished) as d
        group by 1, 2 having count(*) > 1""",
    "half-open circuits without exactly one probe in flight": """
        select s.endpoint_id from webhook.endpoint_sched as s
        where s.circuit = 'half_open' and 1 <> (
            select count(*) from webhook.inflight as i where i.endpoint_id = s.endpoint_id and i.claim_id = s.probe_claim)""",
    "due endpoints that no claim would find": """
        select s.endpoint_id from webhook.endpoint_sched as s, webhook.sched_floor as f
        where s.state = 'enabled' and s.circuit <> 'half_open' and s.in_flight < s.max_in_flight
          and exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id and p.run_at <= clock_timestamp())
          and not exists (select from webhook.wake as w where w.endpoint_id = s.endpoint_id)
          and not (coalesce(s.turn >= f.turn, false) or (s.next_at < 'infinity' and s.next_at >= f.next_at))""",
    "deliveries with a spent budget": """
        select id from webhook.pending where attempts_before > attempt""",
    "leases of nothing": """
        select b.claim_id from webhook.claim_batch as b
        where not exists (select from webhook.inflight as i where i.claim_id = b.claim_id)""",
}

SHIFT = [
    "update webhook.wake set run_at = run_at - {0}",
    "update webhook.pending set run_at = run_at - {0}",
    "update webhook.fan_out set run_at = run_at - {0}",
    "update webhook.claim_batch set claimed_at = claimed_at - {0}, lease_until = lease_until - {0}",
    """update webhook.endpoint_sched set version = version + 1, tat = tat - {0}, not_before = not_before - {0},
              head = head - {0}, next_at = next_at - {0}, failing_since = failing_since - {0},
              recovering_since = recovering_since - {0}""",
    """update webhook.sched_floor set next_at = next_at - {0}, seen_next_at = seen_next_at - {0},
              ahead_next_at = ahead_next_at - {0}, look_at_all_at = look_at_all_at - {0}""",
]

verdicts = st.sampled_from(
    ["delivered", "delivered", "timeout", "timeout", "timeout", "interrupted", "released", "dead", "hold", "gone"]
)


class Schedule(RuleBasedStateMachine):
    """Everybody at once, one step at a time."""

    dsn: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__()
        self.database = psycopg.connect(self.dsn, autocommit=True)
        self.producer = psycopg.connect(self.dsn)
        self.database.execute(RESET)  # autovacuum may be at a table, and gives way after a second
        for connection in (self.database, self.producer):
            connection.execute("set lock_timeout = '300ms'")
        self.producer.commit()
        self.endpoints = [
            self.value(
                "select id from webhook.create_endpoint('https://receiver.test/', %s, %s::jsonb)", tenant, json.dumps(given)
            )
            for tenant, given in ENDPOINTS
        ]
        self.held: list[list[Any]] = []
        self.frozen: list[list[Any]] = []
        self.planned: list[float] = []
        self.shifted = 0.0
        self.events = 0
        self.uncommitted = 0

    def value(self, sql: str, *args: Any) -> Any:
        row = self.database.execute(sql, args).fetchone()
        return row[0] if row else None

    # -- producers -----------------------------------------------------------------------------------------------------

    @rule(tenant=st.sampled_from("ab"), count=st.integers(1, 12), seconds=st.sampled_from([0, 0, 0, -3600, 2, 30]))
    def enqueue(self, tenant: str, count: int, seconds: int) -> None:
        self.value(
            """select count(*) from webhook.enqueue_many(
                   array_fill('e.t'::text, array[%s::int]), array_fill('{}'::text, array[%s::int]), %s,
                   deliver_at => now() + make_interval(secs => %s))""",
            count, count, tenant, seconds,
        )  # fmt: skip
        self.events += count

    @rule(tenant=st.sampled_from("ab"))
    def enqueue_in_a_long_transaction(self, tenant: str) -> None:
        self.producer.execute("select webhook.enqueue('e.t', '{}'::text, %s)", [tenant])
        self.uncommitted += 1

    @precondition(lambda self: self.uncommitted)
    @rule(commits=st.booleans())
    def end_the_long_transaction(self, commits: bool) -> None:
        if commits:
            self.producer.commit()
            self.events += self.uncommitted
        else:
            self.producer.rollback()
        self.uncommitted = 0

    # -- workers -------------------------------------------------------------------------------------------------------

    @rule(
        rows=st.sampled_from([1, 3, 20, 100]),
        size=st.sampled_from([1, 1000]),
        avoid=st.sets(st.integers(0, 3), max_size=2),
        avoid_tenant=st.sampled_from([None, None, "a", "b"]),
    )
    def claim(self, rows: int, size: int, avoid: set[int], avoid_tenant: str | None) -> None:
        avoided = [self.endpoints[n] for n in avoid]
        tenants = [avoid_tenant] if avoid_tenant else []
        sql = "select webhook.claim('w', %s, %s::bigint, avoid => %s::bigint[], avoid_tenants => %s::text[])"
        document = json.loads(self.value(sql, rows, size, avoided, tenants))
        avoided += [id_ for id_, (tenant, _) in zip(self.endpoints, ENDPOINTS, strict=True) if tenant in tenants]
        for row in document.get("deliveries", []):
            assert row[1] not in avoided
            assert row[2] >= row[3] >= 0
            assert row[7] == "{}"
            self.held.append([document["claim"], row[0]])
            if row[1] == self.endpoints[0]:
                self.planned.append(document["now"] + row[4] + self.shifted)

    @rule(count=st.integers(1, 30), verdict=verdicts, delay=st.sampled_from([0, 1, 20]), twice=st.booleans())
    def record(self, count: int, verdict: str, delay: int, twice: bool) -> None:
        outcomes, self.held = self.held[:count], self.held[count:]
        text = json.dumps([_outcome(pair, verdict, delay) for pair in outcomes])
        self.value("select webhook.record('w', %s)", text)
        if twice:
            assert self.value("select webhook.record('w', %s)", text) == 0

    @rule()
    def freeze(self) -> None:
        """The worker stops: its leases will expire."""
        self.frozen += self.held
        self.held = []

    @rule(which=st.integers(0, 3))
    def fail_and_probe(self, which: int) -> None:
        """A receiver fails until its circuit opens; when the pause is over, claims find out whether it is back."""
        others = set(range(4)) - {which}
        for _ in range(3):
            self.claim(1, 1000, others, None)
            self.record(100, "timeout", 0, twice=False)
        self.pass_time(13)
        self.claim(20, 1000, others, None)

    @rule(comes_back=st.booleans())
    def lose_the_leases(self, comes_back: bool) -> None:
        """The worker stops for longer than its leases, and others take over, perhaps before it comes back."""
        self.freeze()
        self.pass_time(31)
        self.value("select webhook.reap()")
        self.claim(100, 1000, set(), None)
        if comes_back:
            self.thaw()

    @rule()
    def thaw(self) -> None:
        """It comes back and records what it did, perhaps too late."""
        ours = self.value(
            """select count(*) from webhook.inflight as i join jsonb_array_elements(%s::jsonb) as f
               on i.claim_id = (f ->> 0)::bigint and i.id = (f ->> 1)::bigint""",
            json.dumps(self.frozen),
        )
        text = json.dumps([_outcome(pair, "delivered", 0) for pair in self.frozen])
        assert ours == self.value("select webhook.record('frozen', %s)", text)
        self.frozen = []

    @rule()
    def extend(self) -> None:
        self.value("select count(*) from webhook.extend(%s::bigint[])", [claim for claim, _ in self.held])

    # -- operators -----------------------------------------------------------------------------------------------------

    @rule(verb=st.sampled_from(["pause", "resume", "disable", "enable", "enable"]), which=st.integers(1, 3))
    def steer(self, verb: str, which: int) -> None:
        try:
            self.value(f"select webhook.{verb}_endpoint(%s)", self.endpoints[which])
        except psycopg.errors.ObjectNotInPrerequisiteState:
            assert verb in ("pause", "resume")

    @rule(
        which=st.integers(1, 3),
        changes=st.sampled_from(
            [{"rate": None}, {"rate": 5}, {"rate": 100, "burst": 5}, {"max_in_flight": 1}, {"max_in_flight": 50}]
        ),
    )
    def change(self, which: int, changes: dict[str, Any]) -> None:
        self.value("select webhook.set_endpoint(%s, %s::jsonb)", self.endpoints[which], json.dumps(changes))

    @rule(tenant=st.sampled_from("ab"), weight=st.sampled_from([0.1, 1, 7]))
    def weigh(self, tenant: str, weight: float) -> None:
        self.value("select webhook.set_tenant(%s, %s::jsonb)", tenant, json.dumps({"weight": weight}))

    @rule(nth=st.integers(0, 50))
    def retry_by_hand(self, nth: int) -> None:
        delivery = self.value("select id from webhook.deliveries order by id offset %s limit 1", nth)
        if delivery is not None:
            self.value("select webhook.retry_delivery(%s, force => true)", delivery)

    # -- housekeeping and time -----------------------------------------------------------------------------------------

    @rule()
    def keep_house(self) -> None:
        self.value("select webhook.reap()")
        self.value("select webhook.raise_floor()")
        self.value("select webhook.empty_wake()")
        self.value("select webhook.drain_wake(10)")

    @rule()
    def reconcile(self) -> None:
        assert self.value("select fixed from webhook.reconcile(0, 100)") == 0

    @rule(seconds=st.sampled_from([0.2, 1, 11, 31, 70]))
    def pass_time(self, seconds: float) -> None:
        self.shifted += seconds
        with self.database.transaction():
            self.database.execute("set local test.shift = 'on'")
            for statement in SHIFT:
                self.database.execute(statement.format(f"interval '{seconds} s'"))

    # -- what always holds ---------------------------------------------------------------------------------------------

    @invariant()
    def nothing_is_wrong(self) -> None:
        for what, sql in WRONG.items():
            assert self.database.execute(sql).fetchall() == [], what

    @invariant()
    def nothing_is_lost(self) -> None:
        waiting = "exists (select from webhook.fan_out as f where f.event_id = e.id and s.endpoint_id > f.cursor)"
        missing = self.value(f"""
            select count(*) from webhook.event as e join webhook.endpoint as n using (tenant)
            join lateral (select n.id as endpoint_id) as s on true
            where not {waiting} and not exists (
                select from (select event_id, endpoint_id from webhook.pending
                             union all select event_id, endpoint_id from webhook.inflight
                             union all select event_id, endpoint_id from webhook.finished) as d
                where d.event_id = e.id and d.endpoint_id = n.id)""")
        assert (self.events, 0) == (self.value("select count(*) from webhook.event"), missing)

    @invariant()
    def plans_conform(self) -> None:
        """The plan itself needs none of the tolerance of promise P4."""
        assert worst_excess(sorted(self.planned), STEADY["rate"], STEADY["burst"]) <= -STEADY["rate"] * 0.09

    def teardown(self) -> None:
        """Whatever has happened: claims, records and time alone bring everything to its end."""
        try:
            if self.uncommitted:
                self.producer.commit()
                self.events += self.uncommitted
            for endpoint in self.endpoints:
                self.value("select webhook.enable_endpoint(%s)", endpoint)
            self.held = []
            for _ in range(DRAIN_ROUNDS_MAX):
                left = """select exists (select from webhook.pending) or exists (select from webhook.inflight)
                              or exists (select from webhook.fan_out)"""
                if not self.value(left):
                    break
                self.claim(100, 1_000_000, set(), None)
                self.record(1000, "delivered", 0, twice=False)
                self.value("select webhook.reap()")
                self.pass_time(2)
            self.nothing_is_wrong()
            assert self.events * 2 == self.value("select count(*) from webhook.finished")
            assert self.value("select count(*) from webhook.claim_batch") == 0
        finally:
            self.producer.close()
            self.database.close()


def _outcome(pair: list[Any], verdict: str, delay: int) -> list[Any]:
    """What functions/300_record.sql documents."""
    disposition = verdict if verdict in ("delivered", "released", "dead") else "retry"
    outcome = verdict if verdict in ("timeout", "interrupted") else "http_status"
    hold = 15 if verdict == "hold" else None
    disable = "the receiver answered 410 Gone" if verdict == "gone" else None
    return [*pair, disposition, outcome, None, 0.1, 0.1, None, None, delay, hold, disable]


@pytest.mark.fault(64)
def test_any_order(dsn: str) -> None:
    """No order of steps breaks an invariant, and everything ends delivered or dead."""
    Schedule.dsn = dsn
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(GUARD)
    run_state_machine_as_test(
        Schedule,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize="HYPOTHESIS_EXAMPLES" not in os.environ,
        ),
    )


BUGS = {
    "no fence": ("record", "where f.claim_id = t.claim_id and f.id = t.id", "where f.id = t.id"),
    "head hides older rows": ("drain_wake", "head = least(l.head, d.run_at)", "head = l.head"),
    "more than one probe": ("claim", "case p.circuit when 'open' then 1 end", "null"),
    "a slot is not given back": ("record", "- coalesce(cardinality(e.void_claims), 0) as", "as"),
    "a token too many": ("claim", "tat = coalesce(c.new_tat, s.tat)", "tat = s.tat"),
    "the floor is raised too far": (
        "raise_floor",
        "turn = least(case when waits then f.turn else coalesce(f.seen_turn, f.turn) end, least_turn)",
        "turn = coalesce(least_turn + 1, f.turn)",
    ),
    "a full endpoint is forgotten": (
        "record",
        "when s.in_flight >= s.max_in_flight or d.recovered then",
        "when d.recovered then",
    ),
}


@pytest.mark.sql
@pytest.mark.parametrize("bug", BUGS)
def test_planted_bugs_are_found(dsn: str, bug: str) -> None:
    """The machine is worth something: it finds each of these."""
    function, right, wrong = BUGS[bug]
    Schedule.dsn = dsn
    with psycopg.connect(dsn, autocommit=True) as database:
        database.execute(GUARD)
        (source,) = database.execute("select pg_get_functiondef(('webhook.' || %s)::regproc)", [function]).fetchone() or [""]
        assert right in source
        database.execute(source.replace(right, wrong).encode())
    found = settings(
        max_examples=500, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    with pytest.raises((AssertionError, psycopg.errors.RaiseException)):  # an invariant, or the guard; which does not matter
        run_state_machine_as_test(Schedule, settings=found)
