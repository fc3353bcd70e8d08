-- What the benchmarks load and ask. Rows are made directly, not through enqueue: it is the claim that is measured.

-- name: bench_load
-- $1 pending deliveries over $2 endpoints, the first of which holds a tenth of them, and the oldest.
with made as (
    insert into webhook.endpoint (tenant, url) select '', 'https://receiver.example/' || n from generate_series(1, $2::int) as n
    returning id
), tenants as (
    insert into webhook.tenant (tenant) values ('') on conflict (tenant) do update set weight = 1 returning no
), keyed as (
    insert into webhook.endpoint_key (endpoint_id, secret) select m.id, sha256(m.id::text::bytea) from made as m
), scheduled as (
    insert into webhook.endpoint_sched (endpoint_id, tenant_no, max_in_flight, next_at)
    select m.id, t.no, 1000, now() from made as m, tenants as t
), stored as (
    insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
    select n, now(), '', 'load', 'application/json', repeat('x', 100) from generate_series(1, least($1::bigint, 100000)) as n
)
insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
select n,
       case when n <= $1::bigint / 10 then (select min(id) from made) else (select min(id) from made) + n % $2::int end,
       now() - interval '1 hour' + n * interval '1 microsecond',
       1 + n % least($1::bigint, 100000), now(), 100
from generate_series(1, $1::bigint) as n

-- name: bench_settle
-- After a load: statistics and visibility, as autovacuum would leave them.
vacuum analyze

-- name: bench_pile
-- $1 pending deliveries for each endpoint whose URL's path begins with $2; they share one event. The nth of an endpoint is
-- due at a random moment in the nth slot of $3 seconds from now, so that endpoints are not in step; a negative $3 makes a
-- backlog.
with chosen as (
    select e.id, e.tenant from webhook.endpoint as e where e.url ~ ('^https?://[^/]+' || $2::text)
), stored as (
    insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
    select nextval('webhook.event_id'), now(), min(c.tenant), 'pile', 'application/json', '{}' from chosen as c
    returning id, created_at
), piled as (
    insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
    select nextval('webhook.delivery_id'), c.id, now() + (n - random()) * make_interval(secs => $3::float8), s.id, s.created_at, 2
    from stored as s, generate_series(1, $1::int) as n, chosen as c
    returning endpoint_id, run_at
), woken as (
    insert into webhook.wake (endpoint_id, run_at) select p.endpoint_id, min(p.run_at) from piled as p group by p.endpoint_id
)
select count(*) from piled

-- name: bench_all_dead
-- Whatever is pending ends as dead, at once.
with gone as (
    delete from webhook.pending returning *
)
insert into webhook.finished
    (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_status, last_error)
select g.id, clock_timestamp(), 'dead', g.endpoint_id, g.event_id, g.event_created_at, g.payload_bytes, 10, 503, 'http_status'
from gone as g

-- name: bench_two_endpoints
-- Two subscribed endpoints.
select webhook.create_endpoint('http://127.0.0.1:9/' || n) from generate_series(1, 2) as n

-- name: bench_empty
-- The same start for every round.
truncate webhook.event, webhook.pending, webhook.wake

-- name: bench_enqueue
-- One event of 1 KiB, as a producer enqueues it.
select webhook.enqueue('order.created', repeat('x', 1024))

-- name: bench_insert_event
-- The same rows without any of the work: who gets the event is known, and nothing is checked. One statement a table.
insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
values (nextval('webhook.event_id'), now(), '', 'order.created', 'application/json', repeat('x', 1024))

-- name: bench_insert_pending
-- Of the event of bench_insert_event, in the same session.
insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
values (nextval('webhook.delivery_id'), 1, now(), currval('webhook.event_id'), now(), 1024),
       (nextval('webhook.delivery_id'), 2, now(), currval('webhook.event_id'), now(), 1024)

-- name: bench_insert_wake
-- The last of the three.
insert into webhook.wake (endpoint_id, run_at) values (1, now()), (2, now())

-- name: bench_insert_all
-- All of it in one statement, which nobody would write: the least that these rows can cost.
with drawn as materialized (
    select nextval('webhook.event_id') as id, repeat('x', 1024) as payload
), stored as (
    insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
    select d.id, now(), '', 'order.created', 'application/json', d.payload from drawn as d
), queued as (
    insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
    select nextval('webhook.delivery_id'), e.id, now(), d.id, now(), 1024
    from drawn as d cross join (values (1), (2)) as e (id)
)
insert into webhook.wake (endpoint_id, run_at) select e.id, now() from (values (1), (2)) as e (id)

-- name: bench_shop
-- A producer's own table, and a tenant with one endpoint and one with three.
create table public.orders (
    id bigint generated always as identity primary key,
    customer text not null,
    item text not null,
    quantity int not null,
    placed_at timestamptz not null default now()
);
create index on public.orders (customer, placed_at);
select webhook.create_endpoint('http://127.0.0.1:9/', tenant => 'one');
select webhook.create_endpoint('http://127.0.0.1:9/' || n, tenant => 'three') from generate_series(1, 3) as n

-- name: bench_empty_shop
-- The same start for every round.
truncate public.orders, webhook.event, webhook.pending, webhook.wake, webhook.idempotency_key

-- name: bench_order
-- What the producer writes for itself. This and the next three are for pgbench, which fills in :payload and :tenant.
insert into public.orders (customer, item, quantity) values ('customer of the shop', 'ticket for tonight', 2)

-- name: bench_order_enqueue
-- The order's event.
select webhook.enqueue('order.created', :payload, tenant => :tenant)

-- name: bench_order_enqueue_keyed
-- The same, named after the order.
select webhook.enqueue('order.created', :payload, tenant => :tenant, idempotency_key => 'order:' || currval('public.orders_id_seq'))

-- name: bench_order_enqueue_many
-- A hundred events in one call.
select count(*) from webhook.enqueue_many(array_fill('order.created'::text, array[100]), array_fill(:payload::text, array[100]), tenant => :tenant)

-- name: bench_wal_position
-- Bytes of WAL until now.
select pg_current_wal_insert_lsn() - '0/0'::pg_lsn

-- name: bench_history_bytes
-- What is kept of the past: tables that grow by design.
select sum(pg_total_relation_size(c.oid))::bigint from pg_class as c
where c.relnamespace = 'webhook'::regnamespace and c.relkind = 'r' and c.relname ~ '^(event|finished|attempt)(_[0-9a-z]+)?$'

-- name: bench_endurance
-- One JSON document: MB of the hot tables and their dead rows, MB of history, calls of claim and record and their milliseconds
-- in all, and what waits.
with tables as (
    select case when c.relname ~ '^(event|finished|attempt)(_|$)' then 'history ' || split_part(c.relname, '_', 1)
                when c.relname ~ '^wake' then 'hot wake'
                else 'hot ' || c.relname end as name,
           sum(pg_total_relation_size(c.oid)) / 1048576 as mb, sum(t.n_dead_tup) as dead
    from pg_class as c join pg_stat_user_tables as t on t.relid = c.oid
    where c.relnamespace = 'webhook'::regnamespace and c.relkind = 'r'
      and c.relname ~ '^(event|finished|attempt|wake)(_|$)|^(pending|inflight|claim_batch|endpoint_sched)$'
    group by 1
)
select json_build_object(
    'sizes', (select json_object_agg(s.key, s.value) from (
        select t.name as key, round(t.mb, 2) as value from tables as t
        union all
        select replace(t.name, 'hot ', 'dead '), t.dead from tables as t where t.name ~ '^hot'
    ) as s),
    'functions', (select json_object_agg(n.name, json_build_array(coalesce(f.calls, 0), coalesce(f.total_time, 0)))
                  from (values ('claim'), ('record')) as n (name)
                  left join pg_stat_user_functions as f on f.schemaname = 'webhook' and f.funcname = n.name),
    'backlog', (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)
)

-- name: bench_ticket_orders
-- Each order of the shop with the event that names it; null where the other side is missing.
select o.id::bigint as "order", v.id as event
from public.shop_order as o
full join (select e.id, (e.payload::json ->> 'order')::bigint as number from webhook.event as e) as v on v.number = o.id

-- name: bench_ticket_partners
-- Of each partner, by the end of its URL: the events that were delivered, those that wait, and when attempts failed (Unix seconds).
select substring(e.url from '[^/]+$') as partner,
       array(select f.event_id from webhook.finished as f where f.endpoint_id = e.id and f.state = 'delivered') as delivered,
       array(select p.event_id from webhook.pending as p where p.endpoint_id = e.id
             union all select i.event_id from webhook.inflight as i where i.endpoint_id = e.id) as waiting,
       array(select extract(epoch from a.started_at)::float8 from webhook.attempt as a
             where a.endpoint_id = e.id and a.outcome <> 'ok' order by 1) as failed
from webhook.endpoint as e

-- name: bench_ticket_is_over
-- Whether nothing is left to do for anybody.
select not exists (select from webhook.pending) and not exists (select from webhook.inflight)
