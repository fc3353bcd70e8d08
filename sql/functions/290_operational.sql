-- Operational events: endpoint.disabled, endpoint.recovered, delivery.dead. Docs for those who get them: docs/receivers.md.

-- Enqueues what happened as events of the endpoints' tenants, in the caller's transaction; nothing is written where nobody
-- subscribes by name (`endpoint.disabled` or `endpoint.*`, not `*`). An endpoint is told nothing about itself.
--
-- No loops: each event goes back to an operator, or to a delivery of an event that is not operational (docs/adr/0014).
--
-- One statement whatever the number of news. It locks nothing: the caller holds rows of endpoint_sched.
create or replace function webhook.tell(news webhook.news[], at timestamptz) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
set plan_cache_mode = force_custom_plan  -- it is rare, and there may be one of them or a thousand
as $$
declare
    deliveries_max bigint;  -- more than these of one tenant and type are left to workers
begin
    -- As in enqueue: a transaction that changed subscriptions makes its deliveries itself, since no snapshot shows its own.
    select case when coalesce(current_setting('webhook.subscriptions_changed', true), '') = '' then 10::bigint * m.fan_out_max end
    into deliveries_max from webhook.meta as m;
    with said as materialized (
        select n.*, e.tenant, regexp_replace(e.url, '[?#].*$', '') as url  -- a query may hold a token
        from unnest(news) as n join webhook.endpoint as e on e.id = n.endpoint_id
    ), topic as materialized (
        select t.tenant, t.event_type, t.n, array(
            select distinct s.endpoint_id from webhook.subscription as s
            where s.tenant = t.tenant and s.pattern in (t.event_type, split_part(t.event_type, '.', 1) || '.*')
              and s.removed is null
            limit deliveries_max + 1
        ) as targets
        from (select s.tenant, s.event_type, count(*) as n from said as s group by s.tenant, s.event_type) as t
    ), message as materialized (
        select nextval('webhook.event_id') as id, s.tenant, s.event_type, s.endpoint_id as about, row_to_json(p)::text as payload,
               coalesce(t.n * cardinality(t.targets) > deliveries_max, false) as wide
        from said as s
        join topic as t using (tenant, event_type)
        left join lateral (  -- an event that led to it, unless all are our own
            select v.event_type from unnest(s.event_ids, s.event_times) as u (id, created_at)
            cross join lateral (
                select v.event_type from webhook.event as v
                where v.id = u.id and v.created_at = u.created_at and not v.operational
                union all
                select k.event_type from webhook.event_kept as k
                where k.id = u.id and k.created_at = u.created_at and not k.operational
            ) as v
            limit 1
        ) as cause on true
        cross join lateral (
            select s.event_type as type, to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') as timestamp, case
                when s.delivery_id is null then (
                    select row_to_json(d) from (select s.endpoint_id, s.url, left(s.reason, 1000) as reason) as d)
                else (
                    select row_to_json(d) from (
                        select s.delivery_id, s.event_ids[1] as event_id, cause.event_type, s.endpoint_id, s.attempts,
                               s.reason as last_outcome, s.status as last_status
                    ) as d)
            end as data
        ) as p
        where t.targets <> '{}' and t.targets <> array[s.endpoint_id]
          and (s.event_ids is null or cause.event_type is not null)
    ), stored as (
        insert into webhook.event (id, created_at, tenant, event_type, content_type, payload, operational)
        select m.id, at, m.tenant, m.event_type, 'application/json', m.payload, true from message as m
    ), left_to_workers as (
        insert into webhook.fan_out (event_id, event_created_at, tenant, event_type, payload_bytes, run_at, snapshot, about)
        select m.id, at, m.tenant, m.event_type, octet_length(m.payload), at, pg_current_snapshot(), m.about
        from message as m where m.wide
    ), target as materialized (
        select m.id, octet_length(m.payload) as bytes, u.endpoint_id
        from message as m
        join topic as t using (tenant, event_type)
        cross join lateral unnest(t.targets) as u (endpoint_id)
        where not m.wide and u.endpoint_id <> m.about
    ), queued as (
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
        select nextval('webhook.delivery_id'), t.endpoint_id, at, t.id, at, t.bytes from target as t
    )
    insert into webhook.wake (endpoint_id, run_at) select distinct t.endpoint_id, at from target as t;
end
$$;
