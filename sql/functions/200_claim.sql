-- The functions of this file and the next run with enable_seqscan = off: their batches are small whatever the statistics
-- say of tables whose contents turn over in seconds, and a plan that flips to reading a whole table would stop a fleet.
-- And without JIT: before Postgres 18 that setting prices the one scan that is meant (`wake`) so high that each call would be
-- compiled, for 300 ms.

-- When rate and Retry-After next allow a send to be claimed. Sends are planned up to half a second ahead, and an
-- endpoint at its limit is visited when half of that has become plannable.
create or replace function webhook.ready_at(
    not_before timestamptz, tat timestamptz, rate double precision, burst int
) returns timestamptz
language sql stable parallel safe
return greatest(not_before, tat + make_interval(secs => (1 - burst) / rate) - interval '0.25 s');

-- Moves what producers appended to `wake` into the schedule. Returns the number of rows drained.
create or replace function webhook.drain_wake(rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    drained int;
begin
    with taken as (
        delete from webhook.wake as w
        where w.ctid = any (array(select ctid from webhook.wake limit rows_max for update skip locked))
        returning w.endpoint_id, w.run_at
    ), due as (
        select t.endpoint_id, min(t.run_at) as run_at from taken as t group by t.endpoint_id
    ), locked as materialized (  -- whoever else has the row may have it for long: its wake-up stays, and nobody waits
        select s.endpoint_id, d.run_at
        from due as d join webhook.endpoint_sched as s using (endpoint_id)
        order by s.endpoint_id for no key update of s skip locked
    ), kept as (
        insert into webhook.wake (endpoint_id, run_at)
        select d.endpoint_id, d.run_at from due as d
        where d.endpoint_id not in (select l.endpoint_id from locked as l)
          and exists (select from webhook.endpoint_sched as s where s.endpoint_id = d.endpoint_id)
    ), woken as (
        update webhook.endpoint_sched as s set
            head = least(s.head, l.run_at),
            next_at = case
                when s.state <> 'enabled' or s.in_flight >= s.max_in_flight then s.next_at
                else least(s.next_at, greatest(l.run_at, webhook.ready_at(s.not_before, s.tat, s.rate, s.burst)))
            end
        from locked as l where s.endpoint_id = l.endpoint_id
    )
    select count(*) into drained from taken where exists (select from locked);  -- 0 if all were kept: do not spin
    return drained;
end
$$;

-- One batch of due deliveries, leased to one worker, as one JSON document (text):
--   {"claim": id or null, "now": database clock, "lease": seconds, "more": whether it is worth asking again at once,
--    "endpoints": {id: {version, tenant, url, headers, timeout, retry, keys}},
--    "deliveries": [[delivery id, endpoint id, attempt, attempts before the last manual retry,
--                    planned send as seconds after "now" or null, event id, content type, payload], …]}
--
-- The unit of scheduling is the endpoint: first the endpoints that have waited longest are locked, skipping those that
-- another worker is visiting; their rows carry the token bucket and the in-flight counter, so what the lock returns is
-- the newest value whatever the snapshot. Then, in a new snapshot, each gives a small quantum of its due deliveries.
-- Rate: GCRA (ITU-T I.371), each send planned at max(now, TAT - (burst - 1) / rate), at most `ahead` in the future.
create or replace function webhook.claim(
    worker text, rows_max int, bytes_max bigint, lease_min interval default '30 s', ahead interval default '0.5 s'
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    wake_max constant int := 10000;
    endpoints_max int := greatest(8, rows_max / 4);
    more boolean := webhook.drain_wake(wake_max) = wake_max;
    started timestamptz := clock_timestamp();
    new_claim bigint;
    visit bigint[];
    heads timestamptz[];
    rooms int[];
    from_tats timestamptz[];  -- max(tat, started): where each bucket stands
    batch_lease interval;
    document text;
begin
    select array_agg(due.endpoint_id), array_agg(due.head), array_agg(due.room), array_agg(due.from_tat)
    into visit, heads, rooms, from_tats
    from (
        select s.endpoint_id, s.head, greatest(s.tat, started) as from_tat,
               greatest(0, least(
                   s.max_in_flight - s.in_flight,
                   floor(extract(epoch from started + ahead - greatest(s.tat, started))::float8 * s.rate + s.burst)
               ))::int as room
        from webhook.endpoint_sched as s
        where s.next_at <= started and s.next_at < 'infinity'
        order by s.next_at
        limit endpoints_max
        for no key update skip locked
    ) as due;
    if visit is null then
        return json_build_object('claim', null, 'now', extract(epoch from started), 'more', more);
    end if;

    new_claim := nextval('webhook.claim_id');
    with visited as materialized (
        select v.endpoint_id, v.head, v.from_tat,
               least(v.room, ceil(rows_max::float8 / cardinality(visit))::int) as quota
        from unnest(visit, heads, rooms, from_tats) as v (endpoint_id, head, room, from_tat)
    ), seen as materialized (  -- one row more than may be taken: it tells when the endpoint is due again
        select v.endpoint_id, v.quota, p.row_at, p.run_at, p.nth,
               sum(p.payload_bytes) over (order by p.nth, v.endpoint_id) - p.payload_bytes as bytes_before
        from visited as v cross join lateral (
            select q.ctid as row_at, q.run_at, q.payload_bytes, row_number() over (order by q.run_at, q.id) as nth
            from webhook.pending as q
            where q.endpoint_id = v.endpoint_id and q.run_at >= v.head
            order by q.run_at, q.id
            limit v.quota + 1
        ) as p
    ), judged as materialized (
        select s.*, s.nth <= s.quota and s.run_at <= started and s.bytes_before <= bytes_max
               and row_number() over (order by s.nth > s.quota or s.run_at > started, s.nth, s.endpoint_id) <= rows_max as taken
        from seen as s
    ), moved as (
        delete from webhook.pending as p
        where p.ctid = any (array(select j.row_at from judged as j where j.taken))
        returning p.*
    ), leased as (
        insert into webhook.inflight
            (claim_id, id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before)
        select new_claim, m.id, m.endpoint_id, m.run_at, m.event_id, m.event_created_at, m.payload_bytes,
               m.attempt + 1, m.attempts_before
        from moved as m
        returning inflight.*
    ), counted as (  -- the rows that were moved, not the candidates
        select v.endpoint_id, v.from_tat, m.taken, j.due_at, j.last_run_at
        from visited as v
        left join (select l.endpoint_id, count(*)::int as taken from leased as l group by l.endpoint_id) as m using (endpoint_id)
        left join (
            select w.endpoint_id, min(w.run_at) filter (where not w.taken) as due_at,
                   max(w.run_at) filter (where w.taken) as last_run_at
            from judged as w group by w.endpoint_id
        ) as j using (endpoint_id)
    ), rescheduled as (
        update webhook.endpoint_sched as s set
            in_flight = s.in_flight + coalesce(c.taken, 0),
            tat = case when c.taken > 0 and s.rate is not null
                       then c.from_tat + make_interval(secs => c.taken / s.rate) else s.tat end,
            head = coalesce(c.due_at, c.last_run_at, s.head),
            next_at = case
                when c.due_at is null or s.in_flight + coalesce(c.taken, 0) >= s.max_in_flight then 'infinity'
                else greatest(started, c.due_at, webhook.ready_at(
                    s.not_before,
                    c.from_tat + make_interval(secs => coalesce(c.taken, 0) / s.rate), s.rate, s.burst))
            end
        from counted as c where s.endpoint_id = c.endpoint_id
        returning s.endpoint_id, s.rate, s.burst, s.next_at, c.from_tat
    ), planned as (
        select l.id, l.endpoint_id, l.attempt, l.attempts_before, l.event_id, l.event_created_at,
               greatest(0, extract(epoch from r.from_tat - started)::float8
                   + (row_number() over (partition by l.endpoint_id order by l.run_at, l.id) - r.burst) / r.rate
               ) as send_after, r.rate
        from leased as l join rescheduled as r using (endpoint_id)
    ), config as (
        select e.id, e.timeout_seconds, json_build_object(
            'version', e.version, 'tenant', e.tenant, 'url', e.url, 'headers', e.headers,
            'timeout', e.timeout_seconds, 'retry', e.retry_seconds,
            'keys', (select coalesce(json_agg(json_build_array(k.scheme, encode(k.secret, 'base64'), k.sealed_with) order by k.id desc), '[]')
                     from webhook.endpoint_key as k where k.endpoint_id = e.id and k.expires_at > started)) as settings
        from webhook.endpoint as e
        where e.id = any (array(select distinct p.endpoint_id from planned as p))
    ), lease as (
        select greatest(lease_min, make_interval(secs => 2 * max(c.timeout_seconds))) as length from config as c
    ), batch as (
        insert into webhook.claim_batch (claim_id, worker, claimed_at, lease, lease_until)
        select new_claim, worker, started, l.length, clock_timestamp() + l.length from lease as l
        where exists (select from leased)
    )
    select json_build_object(
        'claim', new_claim, 'now', extract(epoch from started), 'lease', extract(epoch from (select length from lease)),
        'more', more or cardinality(visit) = endpoints_max or exists (select from rescheduled as r where r.next_at <= started),
        'endpoints', (select coalesce(json_object_agg(c.id, c.settings), '{}') from config as c),
        'deliveries', coalesce(json_agg(json_build_array(
            p.id, p.endpoint_id, p.attempt, p.attempts_before, case when p.rate is not null then p.send_after end,
            p.event_id, e.content_type, e.payload
        ) order by p.send_after, p.id), '[]'))
    into document
    from planned as p left join webhook.event as e on e.id = p.event_id and e.created_at = p.event_created_at;
    return document;
end
$$;

-- Whether anything could be sent now, or as soon as its endpoint's rate allows. Only `run --once` asks.
create or replace function webhook.has_due() returns boolean
language sql stable
return exists (select from webhook.wake) or exists (select from webhook.fan_out) or exists (
    select from webhook.endpoint_sched as s
    where s.state = 'enabled' and s.not_before <= clock_timestamp()
      and exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id and p.run_at <= clock_timestamp())
);
