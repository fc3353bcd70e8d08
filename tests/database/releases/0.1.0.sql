\set ON_ERROR_STOP on

begin;

-- One migrator at a time; the lock goes with the transaction, so it also works through PgBouncer.
select pg_advisory_xact_lock(hashtext('webhook-worker migrate'));
create schema if not exists webhook;
create table if not exists webhook.migration (
    number     int         primary key,
    name       text        not null,
    applied_at timestamptz not null default now(),
    applied_by text        not null
);

-- The schema of 0.1.0. docs/architecture.md explains the tables; this file says why each column is where it is.

-- What this database is: one row.
create table webhook.meta (
    one               boolean primary key default true check (one),
    schema_version    int     not null,
    oldest_worker     text    not null,  -- the oldest release that may still run on this schema
    functions_hash    text    not null default '',
    message_id_prefix text    not null,  -- part of every webhook-id, so that two databases never collide
    payload_bytes_max int     not null default 262144 check (payload_bytes_max > 0)
);
insert into webhook.meta (schema_version, oldest_worker, message_id_prefix)
values (0, '0.1.0', substr(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/=', ''), 1, 8));

create sequence webhook.event_id;
create sequence webhook.delivery_id;
create sequence webhook.claim_id;

-- What producers enqueue. The payload lives here only: hot rows never carry it.
create table webhook.event (
    id           bigint      not null,
    created_at   timestamptz not null,
    tenant       text        not null,
    event_type   text        not null,
    content_type text        not null,
    payload      text        not null,
    primary key (id, created_at)
) partition by range (created_at);

-- Producers who give the same key wait for each other, and only they. A table of its own, because a table
-- partitioned by time cannot hold this unique constraint.
create table webhook.idempotency_key (
    tenant     text        not null,
    key        text        not null,
    event_id   bigint      not null,
    created_at timestamptz not null,
    primary key (tenant, key)
);
create index idempotency_key_age on webhook.idempotency_key (created_at);

-- Where events go: the cold half of an endpoint, what somebody configured.
create table webhook.endpoint (
    id              bigint generated always as identity primary key,
    tenant          text             not null check (octet_length(tenant) <= 255),
    url             text             not null check (url ~ '^https?://[^[:space:][:cntrl:]]+$' and octet_length(url) <= 2048),
    event_types     text[]           not null default '{}',  -- empty: every type
    headers         jsonb            not null default '{}' check (jsonb_typeof(headers) = 'object'),
    timeout_seconds double precision not null default 15 check (timeout_seconds > 0 and timeout_seconds <= 300),
    retry_seconds   double precision[] not null default '{5,300,1800,7200,18000,36000,50400,72000,86400}'
                    check (cardinality(retry_seconds) <= 100 and 0 <= all (retry_seconds) and 31536000 >= all (retry_seconds)),
    version         int              not null default 1,  -- rises with every change, so that workers may cache
    created_at      timestamptz      not null default now()
);
create index endpoint_tenant on webhook.endpoint (tenant, id);

-- Which endpoints want an event type: one row a pattern ('order.created', 'order.*' or '*').
create table webhook.subscription (
    tenant      text   not null,
    pattern     text   not null,
    endpoint_id bigint not null references webhook.endpoint,
    primary key (tenant, pattern, endpoint_id)
);
create index subscription_endpoint on webhook.subscription (endpoint_id);

-- Signing keys. Several are valid at once during a rotation. `sealed_with` names the key-encryption key; null: not sealed.
create table webhook.endpoint_key (
    id          bigint generated always as identity primary key,
    endpoint_id bigint      not null references webhook.endpoint,
    scheme      text        not null default 'v1' check (scheme in ('v1', 'v1a')),
    secret      bytea       not null check (octet_length(secret) between 16 and 256),
    sealed_with text,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null default 'infinity'
);
create index endpoint_key_endpoint on webhook.endpoint_key (endpoint_id, id);

-- The hot half of an endpoint, and the unit of scheduling. Claims lock this row, so everything that must be exact over
-- all workers (state, token bucket, in-flight counter) is a column of it.
create table webhook.endpoint_sched (
    endpoint_id   bigint           primary key,
    state         text             not null default 'enabled' check (state in ('enabled', 'paused', 'disabled')),
    state_reason  text             not null default '',
    circuit       text             not null default 'closed' check (circuit in ('closed', 'open', 'half_open')),
    rate          double precision check (rate between 1e-5 and 1e6),  -- tokens a second (one a day is 1.2e-5); null: no limit. NaN is above 1e6
    burst         int              not null default 1 check (burst between 1 and 1000000),
    max_in_flight int              not null default 64 check (max_in_flight between 1 and 100000),
    in_flight     int              not null default 0 check (in_flight >= 0),
    tat           timestamptz      not null default '-infinity',  -- GCRA: theoretical arrival time
    not_before    timestamptz      not null default '-infinity',  -- the receiver asked for quiet until then (Retry-After)
    head          timestamptz      not null default '-infinity',  -- no pending row is older, unless `wake` says so
    next_at       timestamptz      not null default 'infinity',   -- when this endpoint is worth visiting again
    check (state = 'enabled' or next_at = 'infinity')             -- held deliveries are derived from the state
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index endpoint_sched_next_at on webhook.endpoint_sched (next_at) where next_at < 'infinity';

-- Due or waiting deliveries. Narrow: a row is written once and moved, never updated in place.
create table webhook.pending (
    id               bigint      not null primary key,
    endpoint_id      bigint      not null,
    run_at           timestamptz not null,  -- infinity: held by an operator
    event_id         bigint      not null,
    event_created_at timestamptz not null,  -- finds the event's partition
    payload_bytes    int         not null,  -- lets a claim bound its size without reading payloads
    attempt          smallint    not null default 0 check (attempt >= 0),              -- attempts made so far
    attempts_before  smallint    not null default 0 check (attempts_before <= attempt)  -- of these, before the last manual retry
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index pending_due on webhook.pending (endpoint_id, run_at, id);

-- Deliveries leased to a worker. The claim id is the fence: an outcome that names another one changes nothing.
create table webhook.inflight (
    claim_id         bigint      not null,
    id               bigint      not null,
    endpoint_id      bigint      not null,
    run_at           timestamptz not null,
    event_id         bigint      not null,
    event_created_at timestamptz not null,
    payload_bytes    int         not null,
    attempt          smallint    not null check (attempt > 0),  -- counted at the claim, so a delivery that kills workers ends dead
    attempts_before  smallint    not null,
    primary key (claim_id, id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- One lease a batch: extending it is one row, whatever the batch's size.
create table webhook.claim_batch (
    claim_id    bigint      primary key,
    worker      text        not null,
    claimed_at  timestamptz not null,
    lease       interval    not null check (lease > interval '0'),
    lease_until timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index claim_batch_lease on webhook.claim_batch (lease_until);

-- Producers append here instead of touching endpoint_sched, whose rows the whole fleet locks.
create table webhook.wake (
    endpoint_id bigint      not null,
    run_at      timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Terminal deliveries.
create table webhook.finished (
    id               bigint      not null,
    finished_at      timestamptz not null,
    state            text        not null check (state in ('delivered', 'dead', 'cancelled')),
    endpoint_id      bigint      not null,
    event_id         bigint      not null,
    event_created_at timestamptz not null,
    payload_bytes    int         not null,
    attempt          smallint    not null,
    last_status      int,
    last_error       text        check (state <> 'delivered' or last_error is null),
    primary key (id, finished_at)
) partition by range (finished_at);
create index finished_not_delivered on webhook.finished (state, id) where state <> 'delivered';

-- One row an HTTP request, or a lease that expired before anybody said how it ended.
create table webhook.attempt (
    delivery_id      bigint           not null,
    attempt          smallint         not null,
    event_id         bigint           not null,
    endpoint_id      bigint           not null,
    started_at       timestamptz      not null,
    duration_seconds double precision not null check (duration_seconds >= 0),
    outcome          text             not null,
    status           int,
    response         text,
    error            text,
    worker           text             not null
) partition by range (started_at);
create index attempt_delivery on webhook.attempt (delivery_id, attempt);

-- The net under the partitions made ahead: enqueue never fails because workers were down for weeks.
create table webhook.event_default partition of webhook.event default;
create table webhook.finished_default partition of webhook.finished default;
create table webhook.attempt_default partition of webhook.attempt default;

-- Who changed what, when and why.
create table webhook.audit (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    actor       text        not null,
    action      text        not null,
    endpoint_id bigint,
    delivery_id bigint,
    reason      text        not null default '',
    details     jsonb       not null default '{}'
);
create index audit_endpoint on webhook.audit (endpoint_id, id) where endpoint_id is not null;

-- Slow housekeeping: whoever locks the row has the turn, and a crash gives it back.
create table webhook.maintenance (
    task    text        primary key,
    due_at  timestamptz not null default '-infinity',
    cursor  bigint      not null default 0
);
insert into webhook.maintenance (task) values ('reconcile'), ('partitions'), ('idempotency_keys');

-- Remembers one migration.
insert into webhook.migration (number, name, applied_by) values (1, '0001_initial', '0.1.0');
update webhook.meta set schema_version = 1;

-- What people and programs read. Columns may be added at the end, never changed.

create or replace view webhook.endpoints as
select e.id, e.tenant, e.url, e.event_types, s.state, s.state_reason, s.rate, s.burst, s.max_in_flight,
       e.timeout_seconds, s.circuit, e.created_at, s.in_flight, e.retry_seconds, e.headers,
       case when s.not_before > now() then s.not_before end as not_before
from webhook.endpoint as e join webhook.endpoint_sched as s on s.endpoint_id = e.id;

create or replace view webhook.events as
select e.id, e.tenant, e.event_type, e.created_at, e.content_type, e.payload, octet_length(e.payload) as payload_bytes
from webhook.event as e;

-- `held` is derived: its endpoint is paused or disabled, or an operator set it aside (run_at = infinity).
create or replace view webhook.deliveries as
select d.id, d.event_id, d.endpoint_id, e.tenant, v.event_type, d.state, d.attempts, d.next_attempt_at,
       d.event_created_at as created_at, d.finished_at,
       coalesce(d.last_status, t.status) as last_status, coalesce(d.last_error, t.error) as last_error
from (
    select p.id, p.event_id, p.endpoint_id, p.event_created_at,
           case when s.state = 'enabled' and p.run_at < 'infinity' then 'pending' else 'held' end as state,
           p.attempt as attempts, p.run_at as next_attempt_at, null::timestamptz as finished_at,
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
left join lateral (
    select a.status, case when a.outcome <> 'ok' then concat_ws(': ', a.outcome, a.error) end as error
    from webhook.attempt as a where d.look and a.delivery_id = d.id order by a.attempt desc limit 1
) as t on true;

create or replace view webhook.attempts as
select a.delivery_id, a.event_id, a.endpoint_id, a.attempt, a.started_at, a.duration_seconds, a.outcome, a.status,
       a.response, a.error, a.worker
from webhook.attempt as a;

-- Producers call these inside their own transaction. They append to event, pending and wake, and lock nothing that a
-- worker or another producer waits for, except two callers with the same idempotency key.

-- The subscription patterns that an event type matches: 'a.b.c' gives {*, a.b.c, a.*, a.b.*}.
create or replace function webhook.patterns(event_type text) returns text[]
language sql immutable strict parallel safe
return (
    select array['*', event_type] || coalesce(array_agg(array_to_string(parts[1:n], '.') || '.*'), '{}')
    from (select string_to_array(event_type, '.') as parts) as split,
         lateral generate_series(1, cardinality(parts) - 1) as n
);

-- Raises, with the cause and the next step, unless an event may be enqueued like this.
create or replace function webhook.check_event(
    event_type text, payload text, tenant text, idempotency_key text, deliver_at timestamptz, content_type text
) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    bytes_max int;
begin
    if event_type is null or event_type !~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$' or length(event_type) > 255 then
        raise exception 'webhook.enqueue: event type % is not valid', coalesce(quote_literal(left(event_type, 80)), 'null')
            using errcode = 'invalid_parameter_value',
                  hint = 'Use up to 255 letters, digits, "_" or "-", in parts joined by dots, like order.created.';
    end if;
    if payload is null then
        raise exception 'webhook.enqueue: the payload is null'
            using errcode = 'null_value_not_allowed', hint = 'An empty payload is the empty string.';
    end if;
    select m.payload_bytes_max into bytes_max from webhook.meta as m;
    if octet_length(payload) > bytes_max then
        raise exception 'webhook.enqueue: the payload has % bytes, the limit is %', octet_length(payload), bytes_max
            using errcode = 'program_limit_exceeded',
                  hint = 'Send a link to the data instead, or raise webhook.meta.payload_bytes_max.';
    end if;
    if tenant is null or octet_length(tenant) > 255 then
        raise exception 'webhook.enqueue: the tenant is null or longer than 255 bytes'
            using errcode = 'invalid_parameter_value', hint = 'No tenant is the empty string.';
    end if;
    if idempotency_key is not null and octet_length(idempotency_key) not between 1 and 255 then
        raise exception 'webhook.enqueue: an idempotency key has 1 to 255 bytes, this one has %', octet_length(idempotency_key)
            using errcode = 'invalid_parameter_value', hint = 'No key is null.';
    end if;
    if deliver_at is null or not isfinite(deliver_at) then
        raise exception 'webhook.enqueue: deliver_at is null or infinite'
            using errcode = 'invalid_parameter_value', hint = 'Leave it out to deliver at once.';
    end if;
    if content_type is null or content_type !~ '^[!-~]+( [!-~]+)*$' or length(content_type) > 255 then
        raise exception 'webhook.enqueue: the content type is not a header value of 1 to 255 printable ASCII characters'
            using errcode = 'invalid_parameter_value', hint = 'Leave it out for application/json.';
    end if;
end
$$;

create or replace function webhook.enqueue(
    event_type text, payload text, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json'
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    new_id bigint;
    first_id bigint;
begin
    perform webhook.check_event(event_type, payload, tenant, idempotency_key, deliver_at, content_type);
    new_id := nextval('webhook.event_id');
    if idempotency_key is not null then
        insert into webhook.idempotency_key values (tenant, idempotency_key, new_id, now()) on conflict do nothing;
        if not found then
            select k.event_id into strict first_id from webhook.idempotency_key as k
            where k.tenant = enqueue.tenant and k.key = enqueue.idempotency_key;
            return first_id;
        end if;
    end if;
    insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
    values (new_id, now(), tenant, event_type, content_type, payload);
    with target as (
        select distinct s.endpoint_id from webhook.subscription as s
        where s.tenant = enqueue.tenant and s.pattern = any (webhook.patterns(enqueue.event_type))
    ), queued as (
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
        select nextval('webhook.delivery_id'), t.endpoint_id, deliver_at, new_id, now(), octet_length(payload)
        from target as t
        returning pending.endpoint_id
    )
    insert into webhook.wake (endpoint_id, run_at) select q.endpoint_id, deliver_at from queued as q;
    return new_id;
end
$$;

create or replace function webhook.enqueue(
    event_type text, payload json, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json'
) returns bigint
language sql
return webhook.enqueue(event_type, payload::text, tenant, idempotency_key, deliver_at, content_type);

create or replace function webhook.enqueue(
    event_type text, payload jsonb, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json'
) returns bigint
language sql
return webhook.enqueue(event_type, payload::text, tenant, idempotency_key, deliver_at, content_type);

-- Thousands of events in one statement. Ids come back in input order; an event whose key was used before, earlier in
-- this call or by anybody else, gives the first event's id.
create or replace function webhook.enqueue_many(
    event_types text[], payloads text[], tenant text default '', idempotency_keys text[] default null,
    deliver_at timestamptz default now(), content_type text default 'application/json'
) returns setof bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    drawn_ids bigint[];
    event_ids bigint[];
begin
    if event_types is null or payloads is null or cardinality(event_types) <> cardinality(payloads)
       or cardinality(idempotency_keys) <> cardinality(event_types) then
        raise exception 'webhook.enqueue_many: % event types, % payloads, % idempotency keys',
            coalesce(cardinality(event_types)::text, 'null'), coalesce(cardinality(payloads)::text, 'null'),
            coalesce(cardinality(idempotency_keys)::text, 'no')
            using errcode = 'invalid_parameter_value', hint = 'Give arrays of one length.';
    end if;
    perform webhook.check_event(i.event_type, i.payload, tenant, i.key, deliver_at, content_type)
    from unnest(event_types, payloads, idempotency_keys) as i (event_type, payload, key);

    select array_agg(nextval('webhook.event_id') order by n) into drawn_ids
    from generate_series(1, cardinality(event_types)) as n;
    event_ids := drawn_ids;

    if idempotency_keys is not null then
        -- In key order, so that two producers with overlapping keys wait for each other instead of deadlocking.
        insert into webhook.idempotency_key (tenant, key, event_id, created_at)
        select enqueue_many.tenant, i.key, min(i.id), now()
        from unnest(idempotency_keys, drawn_ids) as i (key, id)
        where i.key is not null group by i.key order by i.key
        on conflict do nothing;
        select array_agg(coalesce(k.event_id, i.id) order by i.n) into event_ids
        from unnest(idempotency_keys, drawn_ids) with ordinality as i (key, id, n)
        left join webhook.idempotency_key as k on k.tenant = enqueue_many.tenant and k.key = i.key;
    end if;

    -- An id that was not drawn at its own place belongs to an earlier event: nothing to queue for it.
    with stored as (
        insert into webhook.event (id, created_at, tenant, event_type, content_type, payload)
        select i.id, now(), enqueue_many.tenant, i.event_type, enqueue_many.content_type, i.payload
        from unnest(event_ids, drawn_ids, event_types, payloads) as i (id, drawn_id, event_type, payload)
        where i.id = i.drawn_id
        returning event.id, event.event_type, octet_length(event.payload) as bytes
    ), target as (
        select distinct e.id, e.bytes, s.endpoint_id
        from (select distinct st.event_type as name, webhook.patterns(st.event_type) as patterns from stored as st) as t
        join webhook.subscription as s on s.tenant = enqueue_many.tenant and s.pattern = any (t.patterns)
        join stored as e on e.event_type = t.name
        order by e.id
    ), queued as (
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
        select nextval('webhook.delivery_id'), t.endpoint_id, deliver_at, t.id, now(), t.bytes
        from target as t
        returning pending.endpoint_id
    )
    insert into webhook.wake (endpoint_id, run_at) select distinct q.endpoint_id, deliver_at from queued as q;
    return query select u.id from unnest(event_ids) with ordinality as u (id, n) order by u.n;
end
$$;

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
return exists (select from webhook.wake) or exists (
    select from webhook.endpoint_sched as s
    where s.state = 'enabled' and s.not_before <= clock_timestamp()
      and exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id and p.run_at <= clock_timestamp())
);

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

-- Operators and producer services manage endpoints through these; each leaves a row in webhook.audit.
-- `settings` and `changes` are JSON objects of the columns a caller may choose:
--   event_types (array of 'order.created', 'order.*' or '*'; empty: all), rate (a second; null: none), burst,
--   max_in_flight, timeout_seconds, retry_seconds (array), headers (object); in set_endpoint also url.

create or replace function webhook.create_endpoint(
    url text, tenant text default '', settings jsonb default '{}', keys text[] default null,
    actor text default session_user, reason text default '',
    out id bigint, out key text
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    secret bytea;
begin
    insert into webhook.endpoint (tenant, url) values (create_endpoint.tenant, create_endpoint.url)
    returning endpoint.id into create_endpoint.id;
    insert into webhook.endpoint_sched (endpoint_id) values (create_endpoint.id);
    perform webhook.change_endpoint(create_endpoint.id, settings);
    insert into webhook.subscription (tenant, pattern, endpoint_id)
    select e.tenant, p.pattern, e.id
    from webhook.endpoint as e, webhook.endpoint_patterns(e.event_types) as p (pattern)
    where e.id = create_endpoint.id
    on conflict do nothing;
    if keys is null or cardinality(keys) = 0 then
        -- 32 bytes out of 244 random bits; gen_random_uuid() draws on the server's strong source.
        keys := array['whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')];
    end if;
    foreach key in array keys loop
        begin
            secret := decode(substr(key, 7), 'base64');
        exception when others then
            secret := null;
        end;
        if key not like 'whsec\_%' or secret is null or octet_length(secret) not between 24 and 64 then
            raise exception 'webhook: a key is "whsec_" and 24 to 64 bytes in base64'
                using errcode = 'invalid_parameter_value', hint = 'Leave it out and one is made.';
        end if;
        insert into webhook.endpoint_key (endpoint_id, secret) values (create_endpoint.id, secret);
    end loop;
    key := keys[1];
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'endpoint.create', create_endpoint.id, reason, jsonb_build_object('url', url, 'tenant', create_endpoint.tenant) || settings - 'headers');
end
$$;

-- The subscription rows of a list of event types.
create or replace function webhook.endpoint_patterns(event_types text[]) returns setof text
language sql immutable
return unnest(case when cardinality(event_types) = 0 then array['*'] else event_types end);

-- Applies the settings; shared by create and set.
create or replace function webhook.change_endpoint(endpoint_id bigint, changes jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    unknown text;
    types text[];
begin
    select string_agg(k, ', ') into unknown from jsonb_object_keys(changes) as k
    where k not in ('url', 'event_types', 'rate', 'burst', 'max_in_flight', 'timeout_seconds', 'retry_seconds', 'headers');
    if unknown is not null then
        raise exception 'webhook: an endpoint has no setting %', unknown using errcode = 'invalid_parameter_value';
    end if;
    if changes ? 'event_types' then
        types := array(select jsonb_array_elements_text(changes -> 'event_types'));
        if exists (select from unnest(types) as t where t !~ '^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$') then
            raise exception 'webhook: an event type to subscribe to is order.created, order.* or *, not %',
                (select t from unnest(types) as t where t !~ '^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$' limit 1)
                using errcode = 'invalid_parameter_value';
        end if;
    end if;
    if exists (
        select from jsonb_each(case jsonb_typeof(changes -> 'headers') when 'object' then changes -> 'headers' end) as h
        where h.key !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' or lower(h.key) like 'webhook-%'
           or lower(h.key) in ('host', 'connection', 'content-length', 'content-type', 'transfer-encoding', 'user-agent')
           or jsonb_typeof(h.value) <> 'string' or h.value #>> '{}' !~ '^[!-~]([ -~]*[!-~])?$'
    ) then
        raise exception 'webhook: a custom header has a token as its name, printable ASCII as its value, and is none that the worker sets'
            using errcode = 'invalid_parameter_value';
    end if;
    update webhook.endpoint as e set
        url = coalesce(changes ->> 'url', e.url),
        event_types = coalesce(types, e.event_types),
        headers = coalesce(changes -> 'headers', e.headers),
        timeout_seconds = coalesce((changes ->> 'timeout_seconds')::float8, e.timeout_seconds),
        retry_seconds = case when changes ? 'retry_seconds'
            then array(select jsonb_array_elements_text(changes -> 'retry_seconds')::float8) else e.retry_seconds end,
        version = e.version + 1
    where e.id = change_endpoint.endpoint_id;
    update webhook.endpoint_sched as s set
        rate = case when changes ? 'rate' then (changes ->> 'rate')::float8 else s.rate end,
        burst = coalesce((changes ->> 'burst')::int, s.burst),
        max_in_flight = coalesce((changes ->> 'max_in_flight')::int, s.max_in_flight),
        tat = case when not changes ? 'rate' or s.tat <= clock_timestamp() then s.tat
                   else clock_timestamp() + case  -- what was sent still counts, at the new rate: an old slow one holds nothing back
                       when s.rate is not null and (changes ->> 'rate')::float8 between 1e-5 and 1e6
                       then (s.tat - clock_timestamp()) * (s.rate / (changes ->> 'rate')::float8) else '0' end
              end,
        next_at = case when s.state = 'enabled' then greatest(clock_timestamp(), s.not_before) else s.next_at end  -- the new limits decide
    where s.endpoint_id = change_endpoint.endpoint_id;
end
$$;

create or replace function webhook.set_endpoint(
    endpoint_id bigint, changes jsonb, actor text default session_user, reason text default ''
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform webhook.lock_endpoint(set_endpoint.endpoint_id);
    perform webhook.change_endpoint(set_endpoint.endpoint_id, changes);
    if changes ? 'event_types' then
        delete from webhook.subscription as s where s.endpoint_id = set_endpoint.endpoint_id;
        insert into webhook.subscription (tenant, pattern, endpoint_id)
        select e.tenant, p.pattern, e.id
        from webhook.endpoint as e, webhook.endpoint_patterns(e.event_types) as p (pattern)
        where e.id = set_endpoint.endpoint_id
        on conflict do nothing;
    end if;
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'endpoint.set', set_endpoint.endpoint_id, reason, changes - 'headers');
end
$$;

-- Locks the endpoint's scheduling row, as everybody does who writes to its deliveries. Returns its state.
create or replace function webhook.lock_endpoint(endpoint_id bigint) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_state text;
begin
    select s.state into found_state from webhook.endpoint_sched as s
    where s.endpoint_id = lock_endpoint.endpoint_id for no key update;
    if not found then
        raise exception 'webhook: there is no endpoint %', endpoint_id using errcode = 'no_data_found';
    end if;
    return found_state;
end
$$;

create or replace function webhook.set_endpoint_state(
    endpoint_id bigint, state text, actor text, reason text, action text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    if webhook.lock_endpoint(set_endpoint_state.endpoint_id) = set_endpoint_state.state then
        return;
    end if;
    update webhook.endpoint_sched as s set
        state = set_endpoint_state.state,
        state_reason = case set_endpoint_state.state when 'enabled' then '' else reason end,
        head = '-infinity',
        next_at = case set_endpoint_state.state when 'enabled' then greatest(clock_timestamp(), s.not_before) else 'infinity' end
    where s.endpoint_id = set_endpoint_state.endpoint_id;
    insert into webhook.audit (actor, action, endpoint_id, reason)
    values (actor, action, set_endpoint_state.endpoint_id, reason);
end
$$;

create or replace function webhook.pause_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if webhook.lock_endpoint(endpoint_id) = 'disabled' then
        raise exception 'webhook: endpoint % is disabled', endpoint_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Enable it first.';
    end if;
    perform webhook.set_endpoint_state(endpoint_id, 'paused', actor, reason, 'endpoint.pause');
end
$$;

create or replace function webhook.resume_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if webhook.lock_endpoint(endpoint_id) = 'disabled' then
        raise exception 'webhook: endpoint % is disabled, not paused', endpoint_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Look at its state_reason, then enable it.';
    end if;
    perform webhook.set_endpoint_state(endpoint_id, 'enabled', actor, reason, 'endpoint.resume');
end
$$;

create or replace function webhook.disable_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language sql
return webhook.set_endpoint_state(endpoint_id, 'disabled', actor, reason, 'endpoint.disable');

create or replace function webhook.enable_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language sql
return webhook.set_endpoint_state(endpoint_id, 'enabled', actor, reason, 'endpoint.enable');

-- Makes one delivery due now, with its retry schedule from the start. Refused, unless forced, for a delivery that was
-- delivered (its receiver gets it again) or is in flight (it is taken from its worker, whose outcome is then fenced off,
-- so it may arrive twice). Returns the state that the delivery was in.
create or replace function webhook.retry_delivery(
    delivery_id bigint, force boolean default false, actor text default session_user, reason text default ''
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    due timestamptz := clock_timestamp();
    owner bigint;
    before text;
    held_by bigint;
begin
    select d.endpoint_id into owner from webhook.deliveries as d where d.id = retry_delivery.delivery_id;
    if owner is null then
        raise exception 'webhook: there is no delivery %', delivery_id using errcode = 'no_data_found';
    end if;
    -- In-flight deliveries belong to a claim, whose row is locked before any endpoint's.
    select i.claim_id into held_by from webhook.inflight as i where i.id = retry_delivery.delivery_id;
    if held_by is not null then
        perform from webhook.claim_batch as b where b.claim_id = held_by for update;
    end if;
    perform webhook.lock_endpoint(owner);
    -- Looked at again under the lock: nobody moves this endpoint's deliveries now, but the worker that holds this one.
    select d.state into before from webhook.deliveries as d where d.id = retry_delivery.delivery_id;
    if before in ('delivered', 'in_flight') and not force then
        raise exception 'webhook: delivery % is %', delivery_id, replace(before, '_', ' ')
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Force it (--force) if its receiver may get it once more.';
    end if;
    if before = 'in_flight' and (
        held_by is null or webhook.record(actor, json_build_array(json_build_array(
            held_by, delivery_id, 'retry', 'interrupted', null, 0, 0, null, 'retried by hand', 0, null, null))::text) = 0
    ) then
        raise exception 'webhook: delivery % changed hands just now', delivery_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Try again.';
    end if;
    with ended as (
        delete from webhook.finished as f where f.id = retry_delivery.delivery_id returning f.*
    )
    insert into webhook.pending
        (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before)
    select e.id, e.endpoint_id, due, e.event_id, e.event_created_at, e.payload_bytes, e.attempt, e.attempt
    from ended as e;
    update webhook.pending as p set run_at = due, attempts_before = p.attempt where p.id = retry_delivery.delivery_id;
    update webhook.endpoint_sched as s set
        head = least(s.head, due),
        next_at = case when s.state = 'enabled' then least(s.next_at, greatest(due, s.not_before)) else s.next_at end
    where s.endpoint_id = owner;
    insert into webhook.audit (actor, action, endpoint_id, delivery_id, reason, details)
    values (actor, 'delivery.retry', owner, delivery_id, reason, jsonb_build_object('state_before', before, 'forced', force));
    return before;
end
$$;

-- Makes this week's partitions and those of the weeks ahead. CREATE … (LIKE …) and then ATTACH, because
-- CREATE … PARTITION OF waits for every open producer transaction. A partition that cannot be attached now (somebody
-- reads the default partition, or it already holds rows of that week) is left for the next turn: meanwhile rows go to
-- the default partition, and `webhook-worker check` says so. Returns the number of partitions made.
create or replace function webhook.ensure_partitions(weeks_ahead int default 4) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    parent text;
    starts timestamptz;
    child text;
    made int := 0;
begin
    perform set_config('lock_timeout', '500ms', true);
    foreach parent in array array['event', 'finished', 'attempt'] loop
        for n in 0 .. weeks_ahead loop
            starts := (date_trunc('week', now() at time zone 'UTC') + n * interval '7 days') at time zone 'UTC';
            child := parent || to_char(starts at time zone 'UTC', '"_"IYYY"w"IW');
            continue when to_regclass('webhook.' || child) is not null;
            begin
                execute format('create table webhook.%I (like webhook.%I including all)', child, parent);
                execute format('alter table webhook.%I attach partition webhook.%I for values from (%L) to (%L)',
                               parent, child, starts, starts + interval '7 days');
                made := made + 1;
            exception when lock_not_available or check_violation or duplicate_table then
                null;  -- the sub-transaction took the table back with it
            end;
        end loop;
    end loop;
    return made;
end
$$;

-- The net under `wake`: looks at a slice of the endpoints, and makes due those that have due deliveries but would not
-- be visited. Returns the number of endpoints put right; anything above 0 in normal running is a bug.
create or replace function webhook.reconcile(after_endpoint bigint, endpoints_max int, out fixed int, out last_endpoint bigint)
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    with slice as (
        select s.endpoint_id from webhook.endpoint_sched as s
        where s.endpoint_id > after_endpoint order by s.endpoint_id limit endpoints_max
    ), owed as (
        select l.endpoint_id, (
            select min(p.run_at) from webhook.pending as p where p.endpoint_id = l.endpoint_id
        ) as due_at
        from slice as l
    ), locked as (
        select s.endpoint_id, o.due_at
        from owed as o join webhook.endpoint_sched as s using (endpoint_id)
        where s.state = 'enabled' and s.in_flight < s.max_in_flight and o.due_at < 'infinity'
          and s.endpoint_id <> all (array(select w.endpoint_id from webhook.wake as w))  -- about to be woken
          and s.next_at > greatest(o.due_at, webhook.ready_at(s.not_before, s.tat, s.rate, s.burst), clock_timestamp()) + interval '1 s'
        order by s.endpoint_id for no key update of s
    ), woken as (
        update webhook.endpoint_sched as s set
            head = least(s.head, l.due_at),
            next_at = greatest(l.due_at, webhook.ready_at(s.not_before, s.tat, s.rate, s.burst))
        from locked as l where s.endpoint_id = l.endpoint_id
        returning s.endpoint_id
    )
    select (select count(*) from woken), (select max(l.endpoint_id) from slice as l) into fixed, last_endpoint;
end
$$;

-- One turn of housekeeping for whichever worker comes first; the others find nothing due. One task a call: each is short,
-- and no task holds its locks while another runs. Returns what was done, as JSON text.
create or replace function webhook.maintain(
    reconcile_every interval default '45 s', keep_idempotency_keys interval default '30 days'
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    turn record;
    step record;
    done jsonb := '{}';
    deleted int;
begin
    for turn in
        select m.task, m.cursor from webhook.maintenance as m
        where m.due_at <= clock_timestamp() order by m.due_at limit 1 for update skip locked
    loop
        case turn.task
        when 'reconcile' then
            select * into step from webhook.reconcile(turn.cursor, 2000);
            done := done || jsonb_build_object('reconciled', step.fixed);
            update webhook.maintenance as m set
                cursor = coalesce(step.last_endpoint, 0),  -- past the last slice: from the start, after a rest
                due_at = clock_timestamp() + case when step.last_endpoint is null then reconcile_every else interval '0.5 s' end
            where m.task = turn.task;
        when 'partitions' then
            done := done || jsonb_build_object('partitions', webhook.ensure_partitions());
            update webhook.maintenance as m set due_at = clock_timestamp() + interval '10 minutes' where m.task = turn.task;
        when 'idempotency_keys' then
            delete from webhook.idempotency_key as k where (k.tenant, k.key) in (
                select o.tenant, o.key from webhook.idempotency_key as o
                where o.created_at < now() - keep_idempotency_keys
                order by o.created_at limit 5000 for update skip locked
            );
            get diagnostics deleted = row_count;
            done := done || jsonb_build_object('idempotency_keys', deleted);
            update webhook.maintenance as m set
                due_at = clock_timestamp() + case when deleted = 5000 then interval '1 s' else interval '1 hour' end
            where m.task = turn.task;
        end case;
    end loop;
    return done::text;
end
$$;

-- Remembers the functions' text, and makes the partitions that are due.
update webhook.meta set functions_hash = 'c4db6356755f1eae';
select webhook.ensure_partitions();

commit;
