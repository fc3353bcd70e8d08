-- What the outcomes of one record do to an endpoint's circuit: the same rules as worker/core/circuit.py, which explains them.
create or replace function webhook.circuit_after(
    s webhook.endpoint_sched, e webhook.effect, at timestamptz,
    out circuit text, out failures int, out failure_ratio float8, out failing_since timestamptz, out openings int,
    out probe_claim bigint, out recovering_since timestamptz, out not_before timestamptz, out disable text, out recovered boolean
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kept constant float8 := 0.95;
    failures_max_recovering constant int := 3;
    ok int := coalesce(cardinality(e.ok_claims), 0);
    failed int := coalesce(cardinality(e.failed_claims), 0);
    opens boolean := false;
    m webhook.meta;
    weight float8;
begin
    select * into m from webhook.meta;
    circuit := s.circuit;
    failures := case when ok > 0 then 0 else s.failures + failed end;
    weight := power(kept, least(ok + failed, 1000));  -- power refuses what is too small to tell from nothing
    failure_ratio := case when s.failure_ratio > 1e-9 then s.failure_ratio else 0 end * weight + case when failed > 0 then (1 - weight) * failed / (ok + failed) else 0 end;
    failing_since := case when ok > 0 then null when failed > 0 then coalesce(s.failing_since, at) else s.failing_since end;
    openings := s.openings;
    probe_claim := s.probe_claim;
    recovering_since := s.recovering_since;
    not_before := greatest(s.not_before, e.hold_until);
    recovered := false;
    if s.circuit = 'half_open' and s.probe_claim = any (e.ok_claims) then
        circuit := 'closed'; probe_claim := null; failures := 0; failure_ratio := 0;
        recovering_since := at; recovered := true;
    elsif s.circuit = 'half_open' and s.probe_claim = any (e.failed_claims) then
        opens := true;
    elsif s.circuit = 'half_open' and s.probe_claim = any (e.void_claims) then
        circuit := 'open'; probe_claim := null;
    elsif s.circuit = 'closed' and failed > 0 then
        opens := failures >= case when s.recovering_since is null then m.circuit_failures else failures_max_recovering end
                 or failure_ratio >= m.circuit_failure_ratio;
    end if;
    if opens then
        circuit := 'open'; probe_claim := null; recovering_since := null; failures := 0; failure_ratio := 0;
        openings := s.openings + 1;
        not_before := greatest(not_before, at + (0.8 + 0.4 * random()) * least(
            m.circuit_pause_max, m.circuit_pause_min * power(2::float8, least(s.openings, 30))));
    end if;
    if failed > 0 and at - failing_since >= m.disable_after then
        disable := 'nothing but failures since ' || to_char(failing_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI "UTC"');
    end if;
end
$$;

-- Writes what became of claimed deliveries. Whatever the number of calls, the same outcome is written once: only rows whose
-- claim id (the fence) still matches are touched.
--
-- `outcomes` is a JSON array of arrays, one a delivery:
--   [claim id, delivery id, disposition, outcome, status, seconds since the attempt began, duration in seconds,
--    response, error, retry after (seconds), hold the endpoint for (seconds), disable the endpoint because]
-- disposition: 'delivered'; 'dead'; 'retry' (due again after so many seconds); 'released' (nothing was sent: due at
-- once, and the attempt does not count). Returns the number of rows that changed; the others were fenced off.
--
-- Order of locks, everywhere: claim_batch, then endpoint_sched by endpoint id, so that no two of these calls deadlock.
create or replace function webhook.record(worker text, outcomes text) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    parsed constant jsonb := outcomes;  -- parsed once: of json, each `->>` parses its row anew
    recorded timestamptz;
    claims bigint[];
    effects webhook.effect[];
    locked webhook.endpoint_sched[];
    news webhook.news[];
    changed int;
begin
    lock table webhook.endpoint_sched in row share mode;  -- see raise_floor
    recorded := clock_timestamp();
    select array_agg(distinct (o ->> 0)::bigint) into claims from jsonb_array_elements(parsed) as o;
    -- Against the reaper, and against this very record under way twice: whoever has the batch's row decides, and the other finds nothing left.
    perform from webhook.claim_batch as b where b.claim_id = any (claims) order by b.claim_id for update;

    with told as (
        select (o ->> 0)::bigint as claim_id, (o ->> 1)::bigint as id, o ->> 2 as disposition, o ->> 3 as outcome,
               (o ->> 4)::int as status, (o ->> 5)::float8 as age, (o ->> 6)::float8 as duration,
               o ->> 7 as response, o ->> 8 as error, (o ->> 9)::float8 as retry_after,
               (o ->> 10)::float8 as hold, o ->> 11 as disable
        from jsonb_array_elements(parsed) as o
    ), ours as (
        delete from webhook.inflight as i using told as t cross join lateral (
            select f.ctid as place from webhook.inflight as f where f.claim_id = t.claim_id and f.id = t.id limit 1
        ) as f
        where i.ctid = f.place
        returning i.claim_id, i.id, i.endpoint_id, i.run_at, i.event_id, i.event_created_at, i.payload_bytes, i.attempt,
                  i.attempts_before, i.is_probe, t.disposition, t.outcome, t.status, t.age, t.duration, t.response, t.error,
                  t.hold, t.disable,
                  case t.disposition when 'retry' then recorded + make_interval(secs => t.retry_after)
                                     when 'released' then i.run_at end as due_at,
                  case when t.disposition = 'delivered' then 'ok'
                       when t.disposition = 'released' or t.disable is not null or t.outcome in (
                           'lease_expired', 'interrupted', 'internal_error', 'no_key', 'no_transport', 'bad_endpoint', 'event_missing') then 'void'
                       else 'failed' end as verdict
    ), attempted as (
        insert into webhook.attempt
            (delivery_id, attempt, event_id, endpoint_id, started_at, duration_seconds, outcome, status, response, error, worker)
        select o.id, o.attempt, o.event_id, o.endpoint_id, recorded - make_interval(secs => o.age), o.duration,
               o.outcome, o.status, o.response, o.error, record.worker
        from ours as o where o.disposition <> 'released'
    ), ended as (
        insert into webhook.finished
            (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_status, last_error)
        select o.id, recorded, o.disposition, o.endpoint_id, o.event_id, o.event_created_at, o.payload_bytes, o.attempt,
               o.status, case when o.disposition <> 'delivered' then concat_ws(': ', o.outcome, o.error) end
        from ours as o where o.disposition in ('delivered', 'dead')
    ), requeued as (  -- what is released is as it was before the claim
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before)
        select o.id, o.endpoint_id, o.due_at, o.event_id, o.event_created_at, o.payload_bytes,
               o.attempt - r.released, o.attempts_before - r.released * o.is_probe::int
        from ours as o
        cross join lateral (select (o.disposition = 'released')::int as released) as r
        where o.disposition in ('retry', 'released')
    ), effect as (
        select (o.endpoint_id,
                array_agg(o.claim_id) filter (where o.verdict = 'ok'),
                array_agg(o.claim_id) filter (where o.verdict = 'failed'),
                array_agg(o.claim_id) filter (where o.verdict = 'void'),
                min(o.due_at),
                recorded + make_interval(secs => max(o.hold)),
                max(o.disable),
                array_agg(o.event_id) filter (where o.verdict <> 'void' or o.disable is not null),
                array_agg(o.event_created_at) filter (where o.verdict <> 'void' or o.disable is not null)
               )::webhook.effect as found, o.endpoint_id, count(*) as n
        from ours as o group by o.endpoint_id
    )
    select array_agg(e.found order by e.endpoint_id), coalesce(sum(e.n), 0), (
        select array_agg(('delivery.dead', o.endpoint_id, o.outcome, array[o.event_id], array[o.event_created_at],
                          o.id, o.attempt, o.status)::webhook.news)
        from ours as o where o.disposition = 'dead')
    into effects, changed, news from effect as e;

    select array_agg(s.found) into locked
    from unnest(effects) with ordinality as e cross join lateral (
        select s as found from webhook.endpoint_sched as s
        where s.endpoint_id = e.endpoint_id order by s.version desc limit 1 for no key update
    ) as s;

    with decided as (
        select l.endpoint_id, l.version, l.state as state_before, l.tat, l.rate, l.burst, e.due_at, e.hold_until,
               e.event_ids, e.event_times,
               l.in_flight - coalesce(cardinality(e.ok_claims), 0) - coalesce(cardinality(e.failed_claims), 0)
                   - coalesce(cardinality(e.void_claims), 0) as in_flight,
               coalesce(e.disable, c.disable) as disable,
               coalesce(c.circuit, l.circuit) as circuit,
               coalesce(c.failures, 0) as failures,
               coalesce(c.failure_ratio, 0) as failure_ratio,
               c.failing_since,
               coalesce(c.openings, l.openings) as openings,
               c.probe_claim,
               case when c.circuit is null then l.recovering_since else c.recovering_since end as recovering_since,
               coalesce(c.not_before, greatest(l.not_before, e.hold_until)) as not_before,
               coalesce(c.recovered, false) as recovered
        from unnest(effects) as e join webhook.rows_of(locked) as l using (endpoint_id)
        left join lateral (  -- nearly always there is nothing to decide
            select c.* from webhook.circuit_after(l, e, recorded) as c
            where l.circuit <> 'closed' or l.failing_since is not null or l.failure_ratio > 0.01 or cardinality(e.failed_claims) > 0
            offset 0  -- a fence: without it all would be decided, and then be filtered
        ) as c on true
    ), updated as (
        update webhook.endpoint_sched as s set
            version = s.version + 1,
            in_flight = d.in_flight,
            not_before = d.not_before,
            head = least(s.head, d.due_at),
            state = case when d.disable is not null then 'disabled' else s.state end,
            state_reason = coalesce(d.disable, s.state_reason),
            circuit = d.circuit, failures = d.failures, failure_ratio = d.failure_ratio, failing_since = d.failing_since,
            openings = d.openings, probe_claim = d.probe_claim, recovering_since = d.recovering_since,
            turn = case when d.disable is null and d.circuit <> 'open' then s.turn end,  -- the probe waits for its timer
            next_at = case
                when d.disable is not null or s.state <> 'enabled' or d.circuit = 'half_open' then 'infinity'
                when d.circuit = 'open' then greatest(recorded, d.not_before)  -- the probe
                when s.turn is not null then s.next_at
                when d.in_flight >= s.max_in_flight then 'infinity'
                when s.in_flight >= s.max_in_flight or d.recovered then  -- it was full, or resting: due at once
                    greatest(recorded, r.ready_at)
                when d.due_at is null then greatest(s.next_at, d.hold_until)
                else greatest(d.hold_until, least(s.next_at, greatest(recorded, d.due_at, r.ready_at)))
            end
        from decided as d cross join lateral (
            select webhook.ready_at(d.not_before, d.tat, webhook.rate_at(d.rate, d.recovering_since, recorded), d.burst) as ready_at
        ) as r cross join lateral (
            select v.ctid as place from webhook.endpoint_sched as v where v.endpoint_id = d.endpoint_id and v.version = d.version limit 1
        ) as v
        where s.ctid = v.place
    ), audited as (
        insert into webhook.audit (actor, action, endpoint_id, reason)
        select record.worker, 'endpoint.disable', d.endpoint_id, d.disable
        from decided as d where d.disable is not null and d.state_before <> 'disabled'
    )
    select news || array_agg((case when d.disable is not null then 'endpoint.disabled' else 'endpoint.recovered' end,
                              d.endpoint_id, coalesce(d.disable, 'the receiver answers again'),
                              d.event_ids, d.event_times, null, null, null)::webhook.news)
    into news
    from decided as d where (d.disable is not null or d.recovered) and d.state_before <> 'disabled';
    if news is not null then
        perform webhook.tell(news, recorded);
    end if;

    delete from webhook.claim_batch as b
    where b.claim_id = any (claims)
      and (select true from webhook.inflight as i where i.claim_id = b.claim_id limit 1) is null;  -- not exists would be joined, reading it all
    return changed;
end
$$;

-- Extends the leases of these claims. Returns those that are still ours: the others were taken back.
create or replace function webhook.extend(claims bigint[]) returns setof bigint
language sql
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
begin atomic
    update webhook.claim_batch as b set lease_until = clock_timestamp() + b.lease
    where b.claim_id = any (array(  -- in order, as record does
        select l.claim_id from webhook.claim_batch as l where l.claim_id = any (claims) order by l.claim_id for update
    )) returning b.claim_id;
end;

-- Takes back what expired leases hold: due at once, outside the retry schedule, the attempt counted, so that a delivery
-- which crashes its worker ends dead rather than circling. Returns the number of deliveries taken back.
create or replace function webhook.reap(batches_max int default 20) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    expired bigint[];
    outcomes json;
begin
    select array_agg(b.claim_id) into expired
    from (
        select claim_id from webhook.claim_batch where lease_until < clock_timestamp()
        order by lease_until limit batches_max for update skip locked
    ) as b;
    if expired is null then
        return 0;
    end if;
    select json_agg(json_build_array(
        i.claim_id, i.id,
        case when i.attempt - i.attempts_before > cardinality(e.retry_seconds) then 'dead' else 'retry' end,
        'lease_expired', null, extract(epoch from clock_timestamp() - b.claimed_at), 0, null,
        'the worker ' || b.worker || ' was lost, or out of reach for longer than its lease', 0, null, null
    )) into outcomes
    from webhook.inflight as i
    join webhook.claim_batch as b using (claim_id)
    join webhook.endpoint as e on e.id = i.endpoint_id
    where i.claim_id = any (expired);
    if outcomes is null then  -- nothing left in these batches
        delete from webhook.claim_batch where claim_id = any (expired);
        return 0;
    end if;
    return webhook.record('reaper', outcomes::text);
end
$$;
