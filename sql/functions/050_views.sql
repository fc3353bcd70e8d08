-- What people and programs read. Columns may be added at the end, never changed.

create or replace view webhook.endpoints as
select e.id, e.tenant, e.url, e.event_types, s.state, s.state_reason, s.rate, s.burst, s.max_in_flight,
       e.timeout_seconds, s.circuit, e.created_at, s.in_flight, e.retry_seconds, e.headers,
       case when s.not_before > now() then s.not_before end as not_before, s.failing_since, s.recovering_since, e.transport
from webhook.endpoint as e join webhook.endpoint_sched as s on s.endpoint_id = e.id;

create or replace view webhook.events as
select e.id, e.tenant, e.event_type, e.created_at, e.content_type, e.payload, octet_length(e.payload) as payload_bytes,
       e.operational, split_part(e.trace, E'\n', 1) as traceparent, nullif(split_part(e.trace, E'\n', 2), '') as tracestate
from (
    select v.id, v.tenant, v.event_type, v.created_at, v.content_type, v.payload, v.operational, v.trace from webhook.event as v
    union all  -- those whose partition was dropped, while a delivery needs them; the same row may be in both for a while
    select k.id, k.tenant, k.event_type, k.created_at, k.content_type, k.payload, k.operational, k.trace from webhook.event_kept as k
    where not exists (select from webhook.event as v where v.id = k.id and v.created_at = k.created_at)
) as e;

-- `held` is derived: its endpoint is paused or disabled, or an operator set it aside (run_at = infinity).
create or replace view webhook.deliveries as
select d.id, d.event_id, d.endpoint_id, e.tenant, coalesce(v.event_type, k.event_type) as event_type, d.state, d.attempts, d.next_attempt_at,
       d.event_created_at as created_at, d.finished_at,
       coalesce(d.last_status, t.status) as last_status, coalesce(d.last_error, t.error) as last_error
from (
    select p.id, p.event_id, p.endpoint_id, p.event_created_at,
           case when s.state = 'enabled' and p.run_at < 'infinity' then 'pending' else 'held' end as state,
           p.attempt as attempts, greatest(p.run_at, s.not_before) as next_attempt_at, null::timestamptz as finished_at,
           null::int as last_status, null::text as last_error, p.attempt > 0 as look
    from webhook.pending as p join webhook.endpoint_sched as s using (endpoint_id)
    union all
    select i.id, i.event_id, i.endpoint_id, i.event_created_at, 'in_flight', i.attempt, null, null, null, null, i.attempt > 1
    from webhook.inflight as i
    union all
    select f.id, f.event_id, f.endpoint_id, f.event_created_at, f.state, f.attempt, null, f.finished_at,
           f.last_status, f.last_error, false
    from webhook.finished as f
) as d
join webhook.endpoint as e on e.id = d.endpoint_id
left join webhook.event as v on v.id = d.event_id and v.created_at = d.event_created_at
left join webhook.event_kept as k on k.id = d.event_id and k.created_at = d.event_created_at
left join lateral (
    select a.status, case when a.outcome <> 'ok' then concat_ws(': ', a.outcome, a.error) end as error
    from webhook.attempt as a where d.look and a.delivery_id = d.id order by a.attempt desc limit 1
) as t on true;

create or replace view webhook.attempts as
select a.delivery_id, a.event_id, a.endpoint_id, a.attempt, a.started_at, a.duration_seconds, a.outcome, a.status,
       a.response, a.error, a.worker
from webhook.attempt as a;

create or replace view webhook.jobs as
select j.id, j.action, j.state, j.filters, j.rate, j.total, j.done, j.skipped, j.skipped_because, j.actor, j.reason, j.created_at,
       j.stepped_at, j.finished_at, j.forced
from webhook.job as j;
