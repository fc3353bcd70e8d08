-- What operators and producer services ask. Filters that are null do not filter. Pages are keyset pages, newest first:
-- the cursor is the last id of the page before. One row more than a page is asked for, to learn whether there is more.

-- name: endpoint_ids
-- The ids of so many endpoints that are yet to be registered.
select webhook.next_endpoint_id() as id from generate_series(1, $1::int)

-- name: endpoints_create
-- Registers a batch of endpoints from a JSON array of {id, url, tenant, settings, keys}.
select webhook.create_endpoint_with_keys(
    (e.document ->> 'id')::bigint, e.document ->> 'url', e.document ->> 'tenant', e.document -> 'settings', e.document -> 'keys',
    $2::text, $3::text
) as id
from jsonb_array_elements($1::text::jsonb) with ordinality as e (document, nth)
order by e.nth

-- name: endpoint_rotate_key
-- Adds a key, and ends the others after an overlap: endpoint, key as JSON, seconds, actor, reason.
select webhook.rotate_key($1::bigint, $2::text::jsonb, make_interval(secs => $3::float8), $4::text, $5::text) as id

-- name: endpoint_keys
-- An endpoint's keys that are valid, the newest first.
select k.id, k.scheme, k.sealed_with, encode(k.public_key, 'base64') as public_key, k.created_at, k.expires_at
from webhook.endpoint_keys as k
where k.endpoint_id = $1::bigint and coalesce(k.expires_at, 'infinity') > now()
order by k.id desc

-- name: endpoint_test
-- Begins a test of an endpoint: id, actor, reason. See functions/430_endpoint_test.sql.
select webhook.begin_endpoint_test($1::bigint, $2::text, $3::text)::text

-- name: keys_page
-- Keys that are not sealed with this one: name, after id, rows.
select k.id, k.endpoint_id, k.scheme, k.secret, k.sealed_with from webhook.keys_to_seal($1::text, $2::bigint, $3::int) as k

-- name: keys_reseal
-- Writes keys that were sealed anew, as JSON; says how many: keys, actor, reason.
select webhook.reseal_keys($1::text::jsonb, $2::text, $3::text)

-- name: audit_page
-- What was done, the newest first: endpoint, delivery, actor, action or its beginning (endpoint.), since, cursor, rows.
select a.id, a.at, a.actor, a.login::text as login, a.action, a.endpoint_id, a.delivery_id, a.reason,
       a.details::text as details
from webhook.audit as a
where ($1::bigint is null or a.endpoint_id = $1)
  and ($2::bigint is null or a.delivery_id = $2)
  and ($3::text is null or a.actor = $3)
  and ($4::text is null or a.action = $4 or starts_with(a.action, $4 || '.'))
  and ($5::timestamptz is null or a.at >= $5)
  and ($6::bigint is null or a.id < $6)
order by a.id desc
limit $7::int

-- name: endpoints_page
-- Endpoints, by id or by filters: id, tenant, state, cursor, rows.
select e.id, e.tenant, e.url, e.event_types, e.state, e.state_reason, e.rate, e.burst, e.max_in_flight, e.timeout_seconds,
       e.circuit, e.created_at, e.in_flight, e.retry_seconds, e.headers::text as headers, e.not_before,
       e.failing_since, e.recovering_since, e.transport
from webhook.endpoints as e
where ($1::bigint is null or e.id = $1)
  and ($2::text is null or e.tenant = $2)
  and ($3::text is null or e.state = $3)
  and ($4::bigint is null or e.id < $4)
order by e.id desc
limit $5::int

-- name: endpoint_waiting
-- How many deliveries of an endpoint wait: id, up to so many.
select count(*) as waiting from (select from webhook.pending as p where p.endpoint_id = $1::bigint limit $2::int) as bounded

-- name: endpoint_set
-- Changes one endpoint: id, changes as JSON, actor, reason.
select webhook.set_endpoint($1::bigint, $2::text::jsonb, $3::text, $4::text)

-- name: endpoint_pause
-- Holds an endpoint's deliveries: id, actor, reason.
select webhook.pause_endpoint($1::bigint, $2::text, $3::text)

-- name: endpoint_resume
-- Lets a paused endpoint's deliveries go: id, actor, reason.
select webhook.resume_endpoint($1::bigint, $2::text, $3::text)

-- name: endpoint_disable
-- Holds an endpoint's deliveries until somebody enables it: id, actor, reason.
select webhook.disable_endpoint($1::bigint, $2::text, $3::text)

-- name: endpoint_enable
-- Enables an endpoint, whatever state it was in: id, actor, reason.
select webhook.enable_endpoint($1::bigint, $2::text, $3::text)

-- name: workers
-- Worker processes, or one of them: name. Silent: it has not been heard of for half a minute.
select w.name, case
           when w.seen_at < clock_timestamp() - interval '30 s' then 'silent'
           when w.draining then 'draining'
           when w.drain_asked_at is not null then 'asked_to_drain'
           else 'running'
       end as state,
       w.host, w.pid, w.runtime, w.version, w.lanes, w.in_hand, w.attempted, w.delivered, w.attempted_per_second,
       w.delivered_per_second, w.started_at, w.seen_at, w.drain_asked_at
from webhook.worker as w
where $1::text is null or w.name = $1
order by w.started_at, w.name

-- name: workers_drain
-- Asks workers to drain: name or null for all, actor, reason. Those that were asked now.
select d.name from webhook.drain_workers($1::text, $2::text, $3::text) as d (name)

-- name: tenants
-- One tenant, or all of them (null), by name.
select t.tenant, t.weight, t.backlog_max, t.backlog, t.backlog_at
from webhook.tenant as t
where $1::text is null or t.tenant = $1
order by t.tenant

-- name: tenant_set
-- Changes one tenant: tenant, changes as JSON, actor, reason.
select webhook.set_tenant($1::text, $2::text::jsonb, $3::text, $4::text)

-- name: event_enqueue
-- One event: type, payload, tenant, idempotency key, when (null: now), seconds from now, traceparent.
select webhook.enqueue(
    $1::text, $2::text, $3::text, $4::text,
    coalesce($5::timestamptz, now()) + make_interval(secs => $6::float8), traceparent => $7::text
)

-- name: purge_look
-- What a purge would meet, counted up to $3: tenant or null, event or null.
select (select count(*) from (
            select from webhook.events as e where ($1::text is null or e.tenant = $1) and ($2::bigint is null or e.id = $2) limit $3::int
        ) as bounded) as events,
       (select count(*) from (
            select from webhook.pending as p
            where ($1::text is null or exists (select from webhook.endpoint as e where e.id = p.endpoint_id and e.tenant = $1))
              and ($2::bigint is null or p.event_id = $2) limit $3::int
        ) as bounded) as waiting

-- name: purge_begin
-- Says what is about to be removed: tenant or null, event or null, actor, reason. Its number, whose it is, and up to which event.
select p.purge, p.of_tenant as tenant, p.event_to from webhook.begin_purge($1::text, $2::bigint, $3::text, $4::text) as p

-- name: purge_fan_out
-- No more deliveries are made of these events: purge.
select webhook.purge_fan_out($1::bigint)

-- name: purge_events
-- Removes events: purge, after id, ids.
select p.removed, p.next from webhook.purge_events($1::bigint, $2::bigint, $3::int) as p

-- name: purge_endpoints
-- A tenant's endpoints after this one: tenant, id, rows.
select e.id from webhook.endpoint as e where e.tenant = $1::text and e.id > $2::bigint order by e.id limit $3::int

-- name: purge_endpoint
-- Cancels deliveries: purge, endpoint, rows.
select webhook.purge_endpoint($1::bigint, $2::bigint, $3::int)

-- name: purge_answers
-- Removes what receivers answered: purge, after delivery id, ids.
select p.cleared, p.next from webhook.purge_answers($1::bigint, $2::bigint, $3::int) as p

-- name: deliveries_page
-- Deliveries by filters as JSON (functions/520_matching.sql), cursor, rows. Each of the three tables gives a page by its own index
-- before the view fills in the rest.
with candidate as (
    (select p.id from webhook.matching_pending($1::text::jsonb) as p where $2::bigint is null or p.id < $2 order by p.id desc limit $3::int)
    union all
    (select i.id from webhook.matching_inflight($1::text::jsonb) as i where $2::bigint is null or i.id < $2 order by i.id desc limit $3::int)
    union all
    (select f.id from webhook.matching_finished($1::text::jsonb) as f where $2::bigint is null or f.id < $2 order by f.id desc limit $3::int)
)
select d.id, d.event_id, d.endpoint_id, d.tenant, d.event_type, d.state, d.attempts,
       nullif(d.next_attempt_at, 'infinity') as next_attempt_at, d.created_at, d.finished_at, d.last_status, d.last_error
from webhook.deliveries as d
where d.id = any (array(select c.id from candidate as c order by c.id desc limit $3::int))
order by d.id desc

-- name: deliveries_count
-- How many match these filters.
select (select count(*) from webhook.matching_pending($1::text::jsonb)) + (select count(*) from webhook.matching_inflight($1::text::jsonb))
     + (select count(*) from webhook.matching_finished($1::text::jsonb)) as count

-- name: deliveries_payloads
-- What these deliveries carry (null: the event is gone): ids, separated by commas.
select d.id, v.content_type, v.payload
from webhook.deliveries as d left join webhook.events as v on v.id = d.event_id and v.created_at = d.created_at
where d.id = any (string_to_array($1::text, ',')::bigint[])

-- name: delivery_facts
-- What decides when a delivery is sent: its place, its endpoint, its lease, who holds it; and, up to so many ($2), how many others of
-- its endpoint are due before it.
select d.state, clock_timestamp() as now, d.attempts, d.finished_at, d.last_error, nullif(p.run_at, 'infinity') as run_at,
       coalesce(p.run_at = 'infinity', false) as set_aside, h.actor as held_by, h.reason as held_reason, h.held_at,
       b.worker, b.lease_until, d.endpoint_id, s.state as endpoint_state, s.state_reason as endpoint_reason, s.circuit,
       nullif(s.not_before, '-infinity') as not_before, webhook_rate.rate, nullif(s.tat, '-infinity') as tat, s.burst,
       s.in_flight, s.max_in_flight, s.recovering_since is not null as recovering, (
           select count(*) from (
               select from webhook.pending as q
               where q.endpoint_id = p.endpoint_id and (q.run_at, q.id) < (p.run_at, p.id) limit $2::int
           ) as q
       ) as ahead
from webhook.deliveries as d
join webhook.endpoint_sched as s on s.endpoint_id = d.endpoint_id
left join webhook.pending as p on p.id = d.id
left join webhook.held_delivery as h on h.delivery_id = d.id
left join webhook.inflight as i on i.id = d.id
left join webhook.claim_batch as b on b.claim_id = i.claim_id
cross join lateral (
    select case when s.recovering_since is null then s.rate else least(s.rate, 2 * power(2::float8, least(
        10, extract(epoch from clock_timestamp() - s.recovering_since)::float8 / 2))) end as rate
) as webhook_rate
where d.id = $1::bigint

-- name: delivery
-- One delivery.
select d.id, d.event_id, d.endpoint_id, d.tenant, d.event_type, d.state, d.attempts,
       nullif(d.next_attempt_at, 'infinity') as next_attempt_at, d.created_at, d.finished_at, d.last_status, d.last_error
from webhook.deliveries as d
where d.id = $1::bigint

-- name: delivery_retry
-- Makes one delivery due now: id, force, actor, reason. The state that it was in, and the one that it is in now: held, if
-- its endpoint is paused or disabled.
select $1::bigint as id, webhook.retry_delivery($1::bigint, $2::boolean, $3::text, $4::text) as state_before, (
    select case s.state when 'enabled' then 'pending' else 'held' end
    from webhook.deliveries as d join webhook.endpoint_sched as s on s.endpoint_id = d.endpoint_id
    where d.id = $1
) as state

-- name: delivery_cancel
-- Cancels one delivery: id, actor, reason. The state that it was in.
select $1::bigint as id, webhook.cancel_delivery($1::bigint, $2::text, $3::text) as state_before, 'cancelled' as state

-- name: delivery_hold
-- Sets one delivery aside: id, actor, reason. The state that it was in.
select $1::bigint as id, webhook.hold_delivery($1::bigint, $2::text, $3::text) as state_before, 'held' as state

-- name: delivery_release
-- Lets one delivery go: id, actor, reason. The state that it was in, and the one that it is in now, as for a retry.
select $1::bigint as id, webhook.release_delivery($1::bigint, $2::text, $3::text) as state_before, (
    select case s.state when 'enabled' then 'pending' else 'held' end
    from webhook.deliveries as d join webhook.endpoint_sched as s on s.endpoint_id = d.endpoint_id
    where d.id = $1
) as state

-- name: job_preview
-- What a job would be about: action, filters as JSON, force, first id that is not meant or null. How many, and the first five ids.
select p.matching, array_to_string(p.sample, ',') as sample
from webhook.preview_job($1::text, $2::text::jsonb, $3::boolean, $4::bigint) as p

-- name: job_create
-- Creates a job: action, filters as JSON, rate or null, force, rows or null, first id that is not meant or null, actor, reason.
select webhook.create_job($1::text, $2::text::jsonb, $3::float8, $4::boolean, $5::bigint, $6::bigint, $7::text, $8::text)

-- name: jobs_page
-- Jobs, the newest first: id, state, cursor, rows.
select j.id, j.action, j.state, j.filters::text as filters, j.rate, j.total, j.done, j.skipped,
       j.skipped_because::text as skipped_because, j.actor, j.reason, j.created_at, j.stepped_at, j.finished_at, j.forced
from webhook.jobs as j
where ($1::bigint is null or j.id = $1)
  and ($2::text is null or j.state = $2)
  and ($3::bigint is null or j.id < $3)
order by j.id desc
limit $4::int

-- name: job_pause
-- Pauses a job: id, actor, reason.
select webhook.pause_job($1::bigint, $2::text, $3::text)

-- name: job_resume
-- Lets a paused job go on: id, actor, reason.
select webhook.resume_job($1::bigint, $2::text, $3::text)

-- name: job_cancel
-- Ends a job before it is through: id, actor, reason.
select webhook.cancel_job($1::bigint, $2::text, $3::text)

-- name: attempts_page
-- Attempts by filters: delivery, endpoint, outcome, started since, cursor (delivery and attempt), rows.
select a.delivery_id, a.event_id, a.endpoint_id, a.attempt, a.started_at, a.duration_seconds, a.outcome, a.status,
       a.response, a.error, a.worker
from webhook.attempts as a
where ($1::bigint is null or a.delivery_id = $1)
  and ($2::bigint is null or a.endpoint_id = $2)
  and ($3::text is null or a.outcome = $3)
  and ($4::timestamptz is null or a.started_at >= $4)
  and ($5::bigint is null or (a.delivery_id, a.attempt) < ($5, $6::int))
order by a.delivery_id desc, a.attempt desc
limit $7::int

-- name: attempts_tail
-- Attempts that were recorded since the call before: cursor, endpoint, tenant, outcome, only failed, rows. See functions/560_tail.sql.
select webhook.tail_attempts($1::text, $2::bigint, $3::text, $4::text, $5::boolean, $6::int)

-- name: events_before
-- The id of the event that has so many after it, counting itself; 0 if there are fewer.
select coalesce((select v.id from webhook.event as v order by v.id desc offset $1::int - 1 limit 1), 0)

-- name: events_tail
-- Events in ranges of ids, the oldest first: ranges as a JSON array of [first, last], in order, tenant or null, patterns as a JSON array,
-- rows, bytes of payloads (at most one payload more). A JSON object of "events" (of one that is not wanted, its id alone), "through" (the
-- id up to which all were read; null: there is no more), "xmin" and "xmax" of the snapshot, and "message_id_prefix". Reads only.
with found as (
    select v.* from json_array_elements($1::text::json) as r (ids)
    cross join lateral (
        select e.* from webhook.event as e
        where e.id between (r.ids ->> 0)::bigint and (r.ids ->> 1)::bigint order by e.id limit $4::int + 1
    ) as v
    where json_array_length(r.ids) = 2  -- as it is: but now few ranges are expected, and no plan is so dear that Postgres compiles it
    order by v.id limit $4::int + 1
), judged as (
    select f.*, ($2::text is null or f.tenant = $2) and exists (  -- as for endpoints: `*` means no operational events
        select from json_array_elements_text($3::text::json) as p (pattern)
        where case when p.pattern = '*' then not f.operational
                   when p.pattern like '%.*' then starts_with(f.event_type, left(p.pattern, -1))
                   else f.event_type = p.pattern end
    ) as wanted
    from found as f
), counted as (
    select j.*, row_number() over before <= $4::int
           and coalesce(sum(octet_length(j.payload)) filter (where j.wanted) over before, 0) < $5::int as fits
    from judged as j
    window before as (order by j.id rows between unbounded preceding and 1 preceding)
)
select json_build_object(
    'events', coalesce(json_agg(case when c.wanted
        then json_build_array(c.id, c.created_at, c.event_type, c.tenant, c.content_type, c.payload, c.trace)
        else json_build_array(c.id) end order by c.id) filter (where c.fits), '[]'),
    'through', case when not bool_and(c.fits) then max(c.id) filter (where c.fits) end,
    'xmin', pg_snapshot_xmin(pg_current_snapshot())::text::bigint, 'xmax', pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    'message_id_prefix', (select m.message_id_prefix from webhook.meta as m)
)::text
from counted as c

-- name: stats
-- What an operator looks at first, without counting a big table: each number is exact up to a bound of rows ($1), and
-- beyond it the planner's estimate, or "at least". `oldest` looks at up to $2 endpoints, those longest due first, and
-- trusts `head`, so that it does not walk over dead rows.
with pending as (
    select count(*) as n from (select from webhook.pending limit $1::int + 1) as bounded
), inflight as (
    select count(*) as n from (select from webhook.inflight limit $1::int + 1) as bounded
), dead as (
    select count(*) as n from (
        select from webhook.finished as f
        where f.state = 'dead' and f.finished_at > clock_timestamp() - interval '24 hours' limit $1::int + 1
    ) as bounded
), oldest as (
    select min(p.run_at) as run_at
    from (
        select s.endpoint_id, s.head from webhook.endpoint_sched as s
        where s.state = 'enabled' and (s.turn is not null or s.next_at < 'infinity')
        order by s.turn nulls last, s.next_at limit $2::int
    ) as s
    cross join lateral (
        select q.run_at from webhook.pending as q
        where q.endpoint_id = s.endpoint_id and q.run_at >= s.head order by q.run_at limit 1
    ) as p
    where p.run_at <= clock_timestamp()
), estimate as (
    select c.reltuples::bigint as n from pg_class as c where c.oid = 'webhook.pending'::regclass
)
select case when p.n > $1 then greatest(e.n, p.n) else p.n end as backlog, p.n > $1 as backlog_is_estimate,
       i.n as in_flight, i.n > $1 as in_flight_is_at_least,
       extract(epoch from clock_timestamp() - o.run_at)::float8 as oldest_due_seconds,
       (select count(*) from webhook.endpoint_sched as s where s.state = 'enabled') as endpoints_enabled,
       (select count(*) from webhook.endpoint_sched as s where s.state = 'paused') as endpoints_paused,
       (select count(*) from webhook.endpoint_sched as s where s.state = 'disabled') as endpoints_disabled,
       d.n as dead_last_24h, d.n > $1 as dead_last_24h_is_at_least
from pending as p, inflight as i, dead as d, oldest as o, estimate as e

-- name: stats_tables
-- Size, and live and dead rows as Postgres counts them itself, of each table; partitions are added up under their parent.
select coalesce(p.relname, c.relname)::text as table_name, sum(pg_total_relation_size(c.oid))::bigint as bytes,
       sum(coalesce(t.n_live_tup, 0))::bigint as live_rows, sum(coalesce(t.n_dead_tup, 0))::bigint as dead_rows
from pg_class as c
left join pg_inherits as h on h.inhrelid = c.oid
left join pg_class as p on p.oid = h.inhparent
left join pg_stat_user_tables as t on t.relid = c.oid
where c.relnamespace = 'webhook'::regnamespace and c.relkind = 'r'
group by 1 order by bytes desc, table_name

-- name: stats_snapshot
-- The oldest snapshot of this database and who holds it: while it is held, no row that died since then can be removed. A
-- transaction that has written counts although it reads nothing now: it has no snapshot, but an id that all must respect.
-- Of a standby and a slot Postgres does not say since when.
select h.kind, h.pid, h.name, h.user_name, h.state, h.age_transactions,
       extract(epoch from clock_timestamp() - h.since)::float8 as seconds, h.query_start
from (
    select case a.backend_type when 'walsender' then 'standby' else 'session' end as kind, a.pid, a.application_name as name,
           a.usename::text as user_name, a.state, greatest(age(a.backend_xmin), age(a.backend_xid)) as age_transactions,
           a.xact_start as since, a.query_start
    from pg_stat_activity as a
    where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid()
      and ((a.backend_type = 'client backend' and a.datname = current_database()) or a.backend_type = 'walsender')
    union all
    select 'prepared transaction', null, x.gid, x.owner::text, null, age(x.transaction), x.prepared, null
    from pg_prepared_xacts as x where x.database = current_database()
    union all
    select 'replication slot', s.active_pid, s.slot_name::text, null, null, age(s.xmin), null, null
    from pg_replication_slots as s where s.xmin is not null
) as h
order by h.age_transactions desc, h.since limit 1

-- name: top_queue
-- The backlog and the worst endpoints: endpoints looked at, deliveries of each counted, endpoints shown, others to show (ids with commas).
select b.backlog, b.is_estimate as backlog_is_estimate,
       webhook.look_at_endpoints($1::int, $2::int, $3::int, string_to_array($4::text, ',')::bigint[])::text as queue
from webhook.look_at_backlog() as b

-- name: top_counters
-- What Postgres counts by itself: events enqueued so far, connections and their limit, dead rows of the hot tables.
select (select coalesce(sum(t.n_tup_ins), 0)::bigint from pg_stat_user_tables as t
        where t.schemaname = 'webhook' and t.relname like 'event\_%' and t.relname <> 'event_kept') as enqueued,
       (select sum(d.numbackends)::int from pg_stat_database as d) as connections,
       current_setting('max_connections')::int as connections_max,
       (select coalesce(sum(t.n_dead_tup), 0)::bigint from pg_stat_user_tables as t
        where t.schemaname = 'webhook' and t.relname ~ '^(pending|inflight|claim_batch|endpoint_sched|wake_.)$') as dead_rows,
       extract(epoch from clock_timestamp())::float8 as now

-- name: top_endpoints
-- One look at every endpoint: how many in which state and circuit, and the ids of those that have failed for longest, first those whose circuit is not closed. Reads the whole table: seldom.
with now as materialized (
    select s.endpoint_id, s.state, s.circuit, s.failing_since from webhook.endpoint_sched as s
)
select count(*) filter (where n.state = 'enabled') as enabled, count(*) filter (where n.state = 'paused') as paused,
       count(*) filter (where n.state = 'disabled') as disabled, count(*) filter (where n.failing_since is not null) as failing,
       count(*) filter (where n.circuit = 'open') as circuits_open, count(*) filter (where n.circuit = 'half_open') as circuits_half_open,
       array(select f.endpoint_id from now as f where f.failing_since is not null and f.state = 'enabled'
             order by f.circuit = 'closed', f.failing_since, f.endpoint_id limit $1::int) as worst
from now as n

-- name: check_partitions
-- How many weeks in a row, this one first, have a partition of each table that grows with time.
select t.name as table_name, (
    select coalesce(min(w.n) filter (where not exists (
        select from pg_inherits as h join pg_class as c on c.oid = h.inhrelid
        where h.inhparent = ('webhook.' || t.name)::regclass
          and c.relname = t.name || to_char(date_trunc('week', now() at time zone 'UTC') + w.n * interval '7 days', '"_"IYYY"w"IW')
    )), 53)::int
    from generate_series(0, 52) as w (n)
) as weeks
from (values ('event'), ('finished'), ('attempt')) as t (name)
order by t.name

-- name: check_defaults
-- Which of the default partitions hold rows: they should only catch what no other partition takes.
select t.name as table_name
from (values
    ('event', exists (select from webhook.event_default)),
    ('finished', exists (select from webhook.finished_default)),
    ('attempt', exists (select from webhook.attempt_default))
) as t (name, filled)
where t.filled
order by t.name

-- name: check_wake
-- How long the oldest due row of `wake` has been waiting to be drained (looking at 10,000 of them), in seconds.
select coalesce(extract(epoch from clock_timestamp() - min(w.run_at)), 0)::float8
from (select run_at from webhook.wake limit 10000) as w
where w.run_at <= clock_timestamp()

-- name: check_backlogs
-- Tenants at 80 % of their backlog limit or more, the fullest first.
select t.tenant, t.backlog, t.backlog_max from webhook.tenant as t
where t.backlog_max is not null and t.backlog >= t.backlog_max * 0.8
order by t.backlog::float8 / t.backlog_max desc, t.tenant

-- name: check_keys
-- With what the valid signing keys are sealed (null: not at all), and how many.
select k.sealed_with, count(*) as keys from webhook.endpoint_keys as k
where coalesce(k.expires_at, 'infinity') > now() group by k.sealed_with order by k.sealed_with nulls first
