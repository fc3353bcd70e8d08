-- Writes what became of claimed deliveries, in one statement a batch. Whatever the number of calls, the same outcome is
-- written once: only rows whose claim id (the fence) still matches are touched.
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
set jit = off
as $$
#variable_conflict use_column
declare
    recorded timestamptz := clock_timestamp();
    claims bigint[];
    changed int;
begin
    select array_agg(distinct (o ->> 0)::bigint) into claims from json_array_elements(outcomes::json) as o;
    -- Against the reaper, and against this very record under way twice: whoever has the batch's row decides, and the other finds nothing left.
    perform from webhook.claim_batch as b where b.claim_id = any (claims) order by b.claim_id for update;

    with told as (
        select (o ->> 0)::bigint as claim_id, (o ->> 1)::bigint as id, o ->> 2 as disposition, o ->> 3 as outcome,
               (o ->> 4)::int as status, (o ->> 5)::float8 as age, (o ->> 6)::float8 as duration,
               o ->> 7 as response, o ->> 8 as error, (o ->> 9)::float8 as retry_after,
               (o ->> 10)::float8 as hold, o ->> 11 as disable
        from json_array_elements(outcomes::json) as o
    ), ours as (
        delete from webhook.inflight as i using told as t
        where i.claim_id = t.claim_id and i.id = t.id
        returning i.id, i.endpoint_id, i.run_at, i.event_id, i.event_created_at, i.payload_bytes, i.attempt,
                  i.attempts_before, t.disposition, t.outcome, t.status, t.age, t.duration, t.response, t.error,
                  t.hold, t.disable,
                  case t.disposition when 'retry' then recorded + make_interval(secs => t.retry_after)
                                     when 'released' then i.run_at end as due_at
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
    ), requeued as (
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before)
        select o.id, o.endpoint_id, o.due_at, o.event_id, o.event_created_at, o.payload_bytes,
               case o.disposition when 'released' then o.attempt - 1 else o.attempt end, o.attempts_before
        from ours as o where o.disposition in ('retry', 'released')
    ), effect as (
        select o.endpoint_id, count(*)::int as freed, min(o.due_at) as due_at,
               recorded + make_interval(secs => max(o.hold)) as hold_until, max(o.disable) as disable
        from ours as o group by o.endpoint_id
    ), locked as (
        select s.endpoint_id, e.freed, e.due_at, coalesce(e.hold_until, '-infinity') as hold_until, e.disable,
               s.state as state_before
        from effect as e join webhook.endpoint_sched as s using (endpoint_id)
        order by s.endpoint_id for no key update of s
    ), updated as (
        update webhook.endpoint_sched as s set
            in_flight = s.in_flight - l.freed,
            not_before = greatest(s.not_before, l.hold_until),
            head = least(s.head, l.due_at),
            state = case when l.disable is not null then 'disabled' else s.state end,
            state_reason = coalesce(l.disable, s.state_reason),
            next_at = case
                when l.disable is not null or s.state <> 'enabled' or s.in_flight - l.freed >= s.max_in_flight then 'infinity'
                when s.in_flight >= s.max_in_flight then  -- it was full: due at once
                    greatest(recorded, webhook.ready_at(greatest(s.not_before, l.hold_until), s.tat, s.rate, s.burst))
                when l.due_at is null then greatest(s.next_at, l.hold_until)
                else greatest(l.hold_until, least(s.next_at, greatest(
                    l.due_at, webhook.ready_at(s.not_before, s.tat, s.rate, s.burst))))
            end
        from locked as l where s.endpoint_id = l.endpoint_id
    ), audited as (
        insert into webhook.audit (actor, action, endpoint_id, reason)
        select record.worker, 'endpoint.disable', l.endpoint_id, l.disable
        from locked as l where l.disable is not null and l.state_before <> 'disabled'
    )
    select count(*) into changed from ours;

    delete from webhook.claim_batch as b
    where b.claim_id = any (claims) and not exists (select from webhook.inflight as i where i.claim_id = b.claim_id);
    return changed;
end
$$;

-- Extends the leases of these claims. Returns those that are still ours: the others were taken back.
create or replace function webhook.extend(claims bigint[]) returns setof bigint
language sql
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
