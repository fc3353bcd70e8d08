-- The functions of this file and the next run with enable_seqscan = off: their batches are small whatever the statistics
-- say of tables whose contents turn over in seconds, and a plan that flips to reading a whole table would stop a fleet.
-- And without JIT: before Postgres 18 that setting prices the one scan that is meant (`wake`) so high that each call would be
-- compiled, for 300 ms.
--
-- Every statement that changes `endpoint_sched` raises `version`, and looks a row up by (endpoint_id, version), newest first:
-- with a snapshot held open elsewhere a busy endpoint has thousands of dead versions, and none of them is read. So rows are
-- locked in one statement and changed in the next, whose snapshot sees what the locks found; by their place (ctid), looked up
-- by key with a limit, since a join by key may be planned as a scan of the whole index, dead entries and all.

-- The rows of an array, of which the planner is to expect hundreds: by default it expects ten, and joins them in a square.
-- Volatile, so that it is not looked into.
create or replace function webhook.rows_of(locked webhook.endpoint_sched[]) returns setof webhook.endpoint_sched
language sql volatile rows 500
begin atomic
    select * from unnest(locked);
end;

-- The rate in force: the endpoint's own; and after its circuit has closed a growing one, 2 a second at first and twice as
-- much every two seconds. Null: no limit.
create or replace function webhook.rate_at(rate double precision, recovering_since timestamptz, at timestamptz)
returns double precision
language sql immutable parallel safe
return case when recovering_since is null then rate
    else least(rate, 2 * power(2::float8, least(10, extract(epoch from at - recovering_since)::float8 / 2))) end;

-- When Retry-After, circuit and rate next allow a send to be claimed. Sends are planned up to half a second ahead, and an
-- endpoint at its limit is visited when half of that has become plannable; at the next full tenth of a second, so that one
-- claim visits many of them.
create or replace function webhook.ready_at(
    not_before timestamptz, tat timestamptz, rate double precision, burst int
) returns timestamptz
language sql stable parallel safe
return greatest(not_before, case when rate is not null and isfinite(tat) then
    date_bin('0.1 s', tat + make_interval(secs => (1 - burst) / rate) - interval '0.15 s', timestamptz '2000-01-01') end);

-- Moves what producers appended to `wake` into the schedule. Timers are never set to the past, here and everywhere: a floor may
-- have passed it. Returns the number of rows drained.
create or replace function webhook.drain_wake(rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    drained int;
    ids bigint[];
    moments timestamptz[];
    locked webhook.endpoint_sched[];
begin
    with taken as (
        delete from webhook.wake as w
        using (select tableoid as part, ctid as place from webhook.wake limit rows_max for update skip locked) as x
        where w.ctid = x.place and w.tableoid = x.part
        returning w.endpoint_id, w.run_at
    ), due as (
        select t.endpoint_id, min(t.run_at) as run_at, count(*) as n from taken as t group by t.endpoint_id
    )
    select array_agg(d.endpoint_id order by d.endpoint_id), array_agg(d.run_at order by d.endpoint_id), sum(d.n)
    into ids, moments, drained from due as d;
    if ids is null then
        return 0;
    end if;
    -- Whoever else has the row may have it for long: its wake-up stays, and nobody waits.
    select array_agg(s.found) into locked
    from unnest(ids) with ordinality as d (endpoint_id, n) cross join lateral (
        select s as found from webhook.endpoint_sched as s
        where s.endpoint_id = d.endpoint_id order by s.version desc limit 1 for no key update skip locked
    ) as s;
    if coalesce(cardinality(locked), 0) < cardinality(ids) then
        insert into webhook.wake (endpoint_id, run_at)
        select d.endpoint_id, d.run_at from unnest(ids, moments) as d (endpoint_id, run_at)
        where d.endpoint_id not in (select l.endpoint_id from unnest(locked) as l)
          and exists (select from webhook.endpoint as e where e.id = d.endpoint_id);
    end if;
    update webhook.endpoint_sched as s set
        version = s.version + 1,
        head = least(l.head, d.run_at),
        next_at = d.next_at
    from webhook.rows_of(locked) as l join (
        select w.endpoint_id, w.run_at, case
            when k.state <> 'enabled' or k.turn is not null or k.circuit = 'half_open' or k.in_flight >= k.max_in_flight then k.next_at
            else least(k.next_at, greatest(w.run_at, clock_timestamp(), webhook.ready_at(
                k.not_before, k.tat, webhook.rate_at(k.rate, k.recovering_since, clock_timestamp()), k.burst)))
        end as next_at
        from unnest(ids, moments) as w (endpoint_id, run_at) join webhook.rows_of(locked) as k using (endpoint_id)
    ) as d using (endpoint_id) cross join lateral (
        select v.ctid as place from webhook.endpoint_sched as v where v.endpoint_id = l.endpoint_id and v.version = l.version limit 1
    ) as v
    where s.ctid = v.place and (d.run_at < l.head or d.next_at <> l.next_at);
    return case when locked is null then 0 else drained end;  -- 0 if all were kept: do not spin
end
$$;

-- The endpoints of a claim that some tenants are left out of, and how many of them fill it. The queue in order of turns may
-- begin with thousands of theirs, so it is read by tenant, from one to the next that is in it: up to 200 tenants, from a
-- random one on and around, with at most `rows_max` of each kind; of these those with the first turns.
create or replace function webhook.queued_of_others(
    avoid_nos int[], avoid bigint[], floor_turn float8, rows_max int, out ids bigint[], out enough bigint
) returns record
language sql volatile
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
begin atomic
    with recursive start as materialized (
        select floor(random() * (select t.no from webhook.tenant as t order by t.no desc limit 1))::int as no
    ), walk as (
        select b.no, 0 as lap, 0 as steps from start as b
        union all
        select case when n.no is not null then n.no else -1 end, w.lap + (n.no is null)::int, w.steps + 1
        from walk as w cross join start as b left join lateral (
            select s.tenant_no as no from webhook.endpoint_sched as s
            where s.state = 'enabled' and s.turn is not null and s.tenant_no > w.no order by s.tenant_no limit 1
        ) as n on true
        where w.steps < 200 and w.lap < 2 and not (w.lap = 1 and w.no >= b.no)
    ), found as (
        select s.* from (select distinct w.no from walk as w where w.no <> all (avoid_nos)) as w cross join lateral (
            select e.n from (values (1), (2)) as e (n)  -- just due, has more
        ) as e cross join lateral (
            select s.endpoint_id, s.turn, s.expected from webhook.endpoint_sched as s
            where s.state = 'enabled' and s.tenant_no = w.no and least(s.expected, 2) = e.n and s.turn >= floor_turn
              and s.endpoint_id <> all (avoid)
            order by s.turn limit rows_max
        ) as s
    )
    select array_agg(q.endpoint_id order by q.turn), count(*) filter (where q.before < rows_max) from (
        select f.endpoint_id, f.turn, sum(f.expected) over (order by f.turn rows unbounded preceding) - f.expected as before
        from (select f.* from found as f order by f.turn limit rows_max + 500) as f
    ) as q;
end;

-- One batch of due deliveries, leased to one worker, as one JSON document (text):
--   {"claim": id or null, "now": database clock, "waited": seconds spent before that, "worked": and after it, "lease": seconds,
--    "more": whether it is worth asking again at once,
--    "full": whether more is due of endpoints that have as many in flight as they may, or all of which somebody is at work on,
--    "weights": {tenant: weight}, "endpoints": {id: {version, tenant, url, headers, timeout, retry, keys}},
--    "deliveries": [[delivery id, endpoint id, attempt, attempts before the last manual retry,
--                    planned send as seconds after "now" or null, event id, content type, payload], …],
--    "ages": [[seconds since it became due, seconds since its event was enqueued], …] in the same order,
--    "traces": null, or {event id: trace context} of those events that have one}
--
-- The unit of scheduling is the endpoint. Those that may be due are in the run queue (`turn`) or have a timer that has fired
-- (`next_at`). Both are locked, skipping those that another worker is visiting; their rows carry the token bucket and the
-- in-flight counter, so what the lock returns is the newest value whatever the snapshot. Then, in a new snapshot, each in its
-- turn gives a small quantum of its due deliveries, and what has more due goes to the end of the queue.
--
-- Turns are virtual time, in rows (start-time fair queueing: Goyal, Vin, Cheng, 1996): a tenant's next turn is as many rows as
-- its endpoint is known to have, a quantum at most, divided by its weight, after its last one, or now. So tenants take turns
-- however many endpoints they have, and idle ones save nothing up. What has just become due (1 row is expected of it) does not
-- wait behind siblings that had their helping and have more (2 and up are expected).
-- Rate: GCRA (ITU-T I.371), each send planned at max(now, TAT - (burst - 1) / rate), at most `ahead` in the future.
-- `avoid`, `avoid_tenants`: who this worker wants no more of just now. `wait_max`: how long to wait here while there is nothing to do,
-- so that an idle worker makes a few calls a second and still learns of an event within some 25 ms.
create or replace function webhook.claim(
    worker text, rows_max int, bytes_max bigint, lease_min interval default '30 s', ahead interval default '0.5 s',
    avoid bigint[] default '{}', avoid_tenants text[] default '{}', wait_max interval default '0'
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
#variable_conflict use_column
declare
    called timestamptz := clock_timestamp();
    wake_max constant int := 10000;
    fired_max constant int := 500;  -- timers that have fired are put into the queue so many at a time
    beside_others constant int := 4;  -- rows between the turns of what has just become due, while siblings that have more wait
    quantum constant int := 16;  -- rows of an endpoint in a visit, at least; fewer, larger visits leave fewer dead versions
    more boolean;
    avoid_nos int[] := '{}';
    ids bigint[];   -- the head of the run queue, and how many of it fill a claim
    enough bigint;
    started timestamptz;
    floor_turn float8;
    floor_at timestamptz;
    ahead_turn float8;
    virtual_now float8;  -- the turn that is being served
    queued webhook.endpoint_sched[];
    fired webhook.endpoint_sched[];
    new_claim bigint;
    document text;
begin
    select f.turn, f.next_at into floor_turn, floor_at from webhook.sched_floor as f;
    while clock_timestamp() < called + wait_max and not (
        exists (select from webhook.wake)
        or exists (select from webhook.fan_out)
        or exists (select from webhook.endpoint_sched as s where s.turn >= floor_turn)
        or exists (select from webhook.endpoint_sched as s
                   where s.next_at <= clock_timestamp() and s.next_at >= floor_at and s.next_at < 'infinity')
    ) loop
        perform pg_sleep(0.025);
    end loop;
    lock table webhook.endpoint_sched in row share mode;  -- see raise_floor
    select f.turn, f.next_at, f.ahead_turn into floor_turn, floor_at, ahead_turn from webhook.sched_floor as f;
    more := webhook.fan_out_step();
    more := webhook.drain_wake(wake_max) = wake_max or more;
    started := clock_timestamp();
    select array_agg(s.found) into fired from (
        select s as found from webhook.endpoint_sched as s
        where s.next_at <= started and s.next_at >= floor_at and s.next_at < 'infinity' and s.endpoint_id <> all (avoid)
        order by s.next_at limit greatest(rows_max, fired_max) for no key update skip locked
    ) as s;
    select s.turn into virtual_now from webhook.endpoint_sched as s where s.turn >= floor_turn order by s.turn limit 1;
    if avoid_tenants = '{}' then
        select array_agg(q.endpoint_id order by q.turn), count(*) filter (where q.before < rows_max) into ids, enough from (
            select s.endpoint_id, s.turn, sum(s.expected) over (order by s.turn rows unbounded preceding) - s.expected as before
            from (
                select s.endpoint_id, s.turn, s.expected from webhook.endpoint_sched as s
                where s.turn >= floor_turn and s.endpoint_id <> all (avoid)
                order by s.turn limit rows_max + 500  -- others may have locked the first of them
            ) as s
        ) as q;
    else
        avoid_nos := array(select t.no from webhook.tenant as t where t.tenant = any (avoid_tenants) order by t.no);
        select q.ids, q.enough into ids, enough from webhook.queued_of_others(avoid_nos, avoid, floor_turn, rows_max) as q;
    end if;
    select array_agg(s.found) into queued from (  -- past those that others are visiting
        select s.found from unnest(ids) as d (endpoint_id) cross join lateral (
            select s as found from webhook.endpoint_sched as s
            where s.endpoint_id = d.endpoint_id order by s.version desc limit 1 for no key update skip locked
        ) as s
        where (s.found).turn is not null limit enough
    ) as s;
    if fired is null and queued is null then
        return json_build_object(
            'claim', null, 'now', extract(epoch from started), 'waited', extract(epoch from started - called),
            'worked', extract(epoch from clock_timestamp() - started), 'more', more, 'full', ids is not null);
    end if;
    virtual_now := greatest(virtual_now, ahead_turn, 0);
    new_claim := nextval('webhook.claim_id');
    -- Left joins where every row has its match: the planner, which knows nothing of what is in arrays, then expects hundreds of
    -- rows, and hashes; expecting one, it would compare each with each.
    with share as materialized (  -- of the tenants in this claim: the last turns that each has, and how far apart its turns are
        select l.*, l.step * case when l.last_again > virtual_now then beside_others else 1 end as step_new
        from (
            select t.no as tenant_no, t.tenant as name, t.weight, 1 / t.weight as step, greatest(virtual_now, (
                select s.turn from webhook.endpoint_sched as s
                where s.state = 'enabled' and s.tenant_no = t.no and least(s.expected, 2) = 1 and s.turn >= virtual_now
                order by s.turn desc limit 1
            )) as last_new, greatest(virtual_now, (
                select s.turn from webhook.endpoint_sched as s
                where s.state = 'enabled' and s.tenant_no = t.no and least(s.expected, 2) = 2 and s.turn >= virtual_now
                order by s.turn desc limit 1
            )) as last_again
            from webhook.tenant as t
            where t.no = any (array(select f.tenant_no from webhook.rows_of(fired || queued) as f))
        ) as l
    ), placed as materialized (
        select c.*, c.tenant_no <> all (avoid_nos)
                    and sum(c.expected) over (order by c.tenant_no = any (avoid_nos), c.place, c.endpoint_id) - c.expected < rows_max as visited
        from (
            select l.*, coalesce(l.turn, h.last_new + h.step_new * row_number() over (
                       partition by l.tenant_no, l.turn is null order by l.next_at)) as place
            from webhook.rows_of(fired || queued) as l left join share as h using (tenant_no)
        ) as c
    ), visit as materialized (
        select p.endpoint_id, p.version, p.tenant_no, p.place, p.head, p.in_flight, p.max_in_flight, p.not_before, p.circuit,
               greatest(p.tat, started) as from_tat, r.rate, r.burst, p.circuit = 'open' as is_probe,
               case when p.circuit = 'half_open' or p.not_before > started then 0 else greatest(0, least(
                   p.max_in_flight - p.in_flight,
                   case p.circuit when 'open' then 1 end,
                   floor(extract(epoch from started + ahead - greatest(p.tat, started))::float8 * r.rate + r.burst)
               ))::int end as room,
               greatest(p.expected, ceil(rows_max::float8 / count(*) over ())::int) as quota
        from placed as p
        cross join lateral (
            select webhook.rate_at(p.rate, p.recovering_since, started) as rate,
                   case when p.recovering_since is null then p.burst else 1 end as burst
        ) as r
        where p.visited
    ), seen as materialized (  -- more rows than may be taken: they tell when the endpoint is due again, and how much it has then
        select v.endpoint_id, v.tenant_no, least(v.room, v.quota) as quota, p.row_at, p.run_at, p.payload_bytes, p.nth
        from visit as v cross join lateral (
            select q.ctid as row_at, q.run_at, q.payload_bytes, row_number() over (order by q.run_at, q.id) as nth
            from webhook.pending as q
            where q.endpoint_id = v.endpoint_id and q.run_at >= v.head
            order by q.run_at, q.id
            limit least(v.room, greatest(v.quota, least(4 * v.quota, quantum))) + 1
        ) as p
    ), shared as (  -- rows take turns as endpoints do: tenants first, then the endpoints of each
        select s.*, s.nth <= s.quota and s.run_at <= started as due,
               h.step * row_number() over (
                   partition by s.tenant_no, s.nth <= s.quota and s.run_at <= started order by s.nth, s.endpoint_id) as row_turn
        from seen as s left join share as h using (tenant_no)
    ), judged as materialized (
        select s.endpoint_id, s.row_at, s.run_at, s.due
               and row_number() over in_turn <= rows_max
               and sum(s.payload_bytes) over in_turn - s.payload_bytes <= bytes_max as taken
        from shared as s
        window in_turn as (order by not s.due, s.row_turn, s.nth, s.endpoint_id rows unbounded preceding)
    ), moved as (
        delete from webhook.pending as p
        where p.ctid = any (array(select j.row_at from judged as j where j.taken))
        returning p.*
    ), leased as (  -- a probe spends nothing of its delivery's retries
        insert into webhook.inflight
            (claim_id, id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before, is_probe)
        select new_claim, m.id, m.endpoint_id, m.run_at, m.event_id, m.event_created_at, m.payload_bytes,
               m.attempt + 1, m.attempts_before + v.is_probe::int, v.is_probe
        from moved as m left join visit as v using (endpoint_id)
        returning inflight.*
    ), counted as (  -- the rows that were moved, not the candidates; and when the endpoint is due again, null: when somebody says so
        select v.*, n.taken, n.new_tat, j.due_rows, j.left_rows, coalesce(j.due_at, j.last_run_at) as new_head, case
                   when j.due_at is null or v.circuit = 'half_open' or (v.is_probe and n.taken > 0)
                        or v.in_flight + n.taken >= v.max_in_flight then null
                   else greatest(j.due_at, webhook.ready_at(v.not_before, coalesce(n.new_tat, v.from_tat), v.rate, v.burst))
               end as due_at
        from visit as v
        left join (select l.endpoint_id, count(*)::int as taken from leased as l group by l.endpoint_id) as m using (endpoint_id)
        left join (
            select w.endpoint_id, min(w.run_at) filter (where not w.taken) as due_at,
                   case when count(*) filter (where w.run_at <= started) > quantum then quantum  -- no more were looked at
                        else count(*) filter (where w.run_at <= started and not w.taken) end as due_rows,
                   count(*) filter (where w.run_at <= started and not w.taken) as left_rows,
                   max(w.run_at) filter (where w.taken) as last_run_at
            from judged as w group by w.endpoint_id
        ) as j using (endpoint_id)
        cross join lateral (
            select coalesce(m.taken, 0) as taken,
                   case when m.taken > 0 and v.rate is not null then v.from_tat + make_interval(secs => m.taken / v.rate) end as new_tat
        ) as n
    ), requeued as (  -- due now: behind those of its tenant that had their helping, too
        select c.endpoint_id, e.rows, h.last_again + h.step * sum(e.rows) over (
                   partition by c.tenant_no order by c.place, c.endpoint_id) as turn
        from counted as c left join share as h using (tenant_no)
        cross join lateral (select greatest(2, c.due_rows)::smallint as rows) as e
        where c.due_at <= started
    ), rescheduled as (
        update webhook.endpoint_sched as s set
            version = s.version + 1,
            in_flight = s.in_flight + c.taken,
            tat = coalesce(c.new_tat, s.tat),
            circuit = case when c.is_probe and c.taken > 0 then 'half_open' else s.circuit end,
            probe_claim = case when c.is_probe and c.taken > 0 then new_claim else s.probe_claim end,
            openings = case when s.recovering_since < started - interval '20 s' then 0 else s.openings end,
            recovering_since = case when s.recovering_since < started - interval '20 s' then null else s.recovering_since end,
            head = coalesce(c.new_head, s.head),
            turn = r.turn, expected = coalesce(r.rows, 1),
            next_at = case when r.turn is null then coalesce(c.due_at, 'infinity') else 'infinity' end
        from counted as c left join requeued as r using (endpoint_id) cross join lateral (
            select v.ctid as place from webhook.endpoint_sched as v where v.endpoint_id = c.endpoint_id and v.version = c.version limit 1
        ) as v
        where s.ctid = v.place
        returning s.endpoint_id, c.rate, c.burst, c.from_tat
    ), enqueued as (  -- its timer has fired, but this claim is full
        update webhook.endpoint_sched as s set version = s.version + 1, turn = p.place, expected = 1, next_at = 'infinity'
        from placed as p cross join lateral (
            select v.ctid as place from webhook.endpoint_sched as v where v.endpoint_id = p.endpoint_id and v.version = p.version limit 1
        ) as v
        where s.ctid = v.place and p.turn is null and not p.visited
        returning s.tenant_no
    ), planned as (
        select l.id, l.endpoint_id, l.attempt, l.attempts_before, l.event_id, l.event_created_at, greatest(l.run_at, l.event_created_at) as due_at,
               greatest(0, extract(epoch from r.from_tat - started)::float8
                   + (row_number() over (partition by l.endpoint_id order by l.run_at, l.id) - r.burst) / r.rate
               ) as send_after, r.rate
        from leased as l left join rescheduled as r using (endpoint_id)
    ), config as (
        select e.id, e.timeout_seconds, json_build_object(
            'version', e.version, 'tenant', e.tenant, 'url', e.url, 'headers', e.headers,
            'timeout', e.timeout_seconds, 'retry', e.retry_seconds, 'transport', e.transport,
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
        'claim', new_claim, 'now', extract(epoch from started), 'waited', extract(epoch from started - called), 'lease', extract(epoch from (select length from lease)),
        'worked', extract(epoch from clock_timestamp() - started),
        'more', more or exists (select from requeued) or exists (select from enqueued as q where q.tenant_no <> all (avoid_nos)),
        'full', exists (select from counted as c where c.in_flight + c.taken >= c.max_in_flight and c.left_rows > 0),
        'weights', (select json_object_agg(h.name, h.weight) from share as h),
        'endpoints', (select coalesce(json_object_agg(c.id, c.settings), '{}') from config as c),
        'deliveries', coalesce(json_agg(json_build_array(
            p.id, p.endpoint_id, p.attempt, p.attempts_before, case when p.rate is not null then p.send_after end,
            p.event_id, coalesce(e.content_type, k.content_type), coalesce(e.payload, k.payload)
        ) order by p.send_after, p.id), '[]'),
        'ages', json_agg(json_build_array(  -- of each delivery, in the same order
            extract(epoch from started - p.due_at)::float8, extract(epoch from started - p.event_created_at)::float8
        ) order by p.send_after, p.id),
        'traces', json_object_agg(p.event_id, coalesce(e.trace, k.trace)) filter (where coalesce(e.trace, k.trace) is not null))
    into document
    from planned as p
    left join webhook.event as e on e.id = p.event_id and e.created_at = p.event_created_at
    left join webhook.event_kept as k on k.id = p.event_id and k.created_at = p.event_created_at;
    return document;
end
$$;

-- Plans one more send of a delivery that this claim holds, because its request was written on a connection that had been closed:
-- it takes a token of its endpoint's rate. Returns the moment as Unix seconds of the database's clock, now if there is no rate;
-- null if none is to be had within `ahead`, if the endpoint is paused, disabled or has asked for quiet, or if the claim has lost the
-- delivery. Whoever changes the endpoint is not waited for longer than a second.
create or replace function webhook.plan_again(
    claim bigint, delivery bigint, ahead interval default '0.5 s'
) returns double precision
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
set lock_timeout = '1s'
as $$
declare
    held webhook.endpoint_sched;
    at timestamptz;
    rate_now float8;
    burst_now int;
    planned timestamptz;
begin
    select (s.found).* into held from webhook.inflight as i cross join lateral (
        select s as found from webhook.endpoint_sched as s
        where s.endpoint_id = i.endpoint_id order by s.version desc limit 1 for no key update
    ) as s
    where i.claim_id = plan_again.claim and i.id = plan_again.delivery;
    at := clock_timestamp();
    if held.state is distinct from 'enabled' or held.not_before > at then
        return null;
    end if;
    rate_now := webhook.rate_at(held.rate, held.recovering_since, at);
    if rate_now is null then
        return extract(epoch from at);
    end if;
    burst_now := case when held.recovering_since is null then held.burst else 1 end;
    planned := greatest(at, greatest(held.tat, at) + make_interval(secs => (1 - burst_now) / rate_now));
    if planned > at + ahead then
        return null;
    end if;
    update webhook.endpoint_sched as s set
        version = s.version + 1, tat = greatest(held.tat, at) + make_interval(secs => 1 / rate_now)
    where s.ctid = (
        select v.ctid from webhook.endpoint_sched as v where v.endpoint_id = held.endpoint_id and v.version = held.version limit 1);
    return extract(epoch from planned);
end
$$;

-- Whether anything could be sent now, or as soon as its endpoint's rate allows. Only `run --once` asks.
create or replace function webhook.has_due() returns boolean
language sql stable
return exists (select from webhook.wake) or exists (select from webhook.fan_out) or exists (
    select from webhook.endpoint_sched as s
    where s.state = 'enabled' and s.not_before <= clock_timestamp() and s.circuit <> 'half_open'
      and exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id and p.run_at <= clock_timestamp())
);
