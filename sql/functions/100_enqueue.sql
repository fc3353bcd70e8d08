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

-- Whether there is nothing for check_event to refuse: one expression that is inlined into the callers' own, with the cheap and
-- usual tests first. Whatever is not true here goes to check_event, which has the last word and names the cause.
create or replace function webhook.passes(
    event_type text, payload text, tenant text, idempotency_key text, deliver_at timestamptz, content_type text, bytes_max int
) returns boolean
language sql immutable parallel safe
return octet_length(payload) <= bytes_max
   and octet_length(tenant) <= 255
   and (idempotency_key is null or octet_length(idempotency_key) between 1 and 255)
   and isfinite(deliver_at)
   and content_type = 'application/json'
   and length(event_type) <= 255
   and event_type ~ '^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$';

-- Raises if a tenant with a limit is at it. The backlog was measured by workers within the last seconds; if none of them has
-- for a minute, none is running, and the producer counts itself. Never locks anything.
create or replace function webhook.check_backlog(
    tenant text, backlog bigint, backlog_max bigint, backlog_at timestamptz
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if backlog_at < clock_timestamp() - interval '1 minute' then
        backlog := webhook.count_backlog(tenant, backlog_max);
    end if;
    if backlog >= backlog_max then
        raise exception 'webhook.enqueue: tenant % has % or more deliveries waiting, its limit is %',
            quote_literal(tenant), backlog, backlog_max
            using errcode = 'configuration_limit_exceeded',
                  hint = 'Try again when its receivers have caught up; see what waits with `webhook-worker deliveries list`, '
                      'or raise the limit with `webhook-worker tenants set`.';
    end if;
end
$$;

-- What is stored of a W3C trace context, https://www.w3.org/TR/trace-context/: traceparent, and after a line break tracestate, if that is
-- valid, too; else null, as that says: nobody's event fails for its trace. A later version's traceparent is read as version 00.
-- As worker/core/trace.py.
create or replace function webhook.trace_context(traceparent text, tracestate text) returns text
language sql immutable parallel safe
begin atomic
    select '00' || substr(traceparent, 3, 53) || case
        when octet_length(tracestate) <= 512 and cardinality(string_to_array(tracestate, ',')) <= 32
             and tracestate ~ '^[a-z0-9][a-z0-9_*/@-]*=[!-+.-<>-~ -]*(, *[a-z0-9][a-z0-9_*/@-]*=[!-+.-<>-~ -]*)*$'
        then E'\n' || tracestate else '' end
    where octet_length(traceparent) <= 255
      and traceparent ~ '^(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?$'
      and (length(traceparent) = 55 or left(traceparent, 2) <> '00');
end;

-- Its plans are made once a session: left to itself, Postgres makes one for each call as soon as it believes that to know the
-- patterns is worth it. And none of them scans a table, whatever the statistics said at that time.
create or replace function webhook.enqueue(
    event_type text, payload text, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json',
    traceparent text default null, tracestate text default null
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set jit = off
as $$
declare
    new_id bigint;
    first_id bigint;
    patterns text[] := array['*', event_type];
    dot int := 0;
    bytes_max int;
    targets_max int;
    targets bigint[];
    backlog bigint;
    backlog_max bigint;
    backlog_at timestamptz;
begin
    for part in 1 .. coalesce(length(event_type) - length(replace(event_type, '.', '')), 0) loop
        dot := dot + strpos(substr(event_type, dot + 1), '.');
        patterns := patterns || (left(event_type, dot) || '*');
    end loop;
    -- One statement for all that is read: the limits, and one endpoint more than this producer would write for.
    select m.payload_bytes_max, m.fan_out_max, t.backlog, t.backlog_max, t.backlog_at, array(
        select s.endpoint_id from webhook.subscription as s
        where s.tenant = enqueue.tenant and s.pattern = any (patterns) and s.removed is null
        limit m.fan_out_max + 1
    )
    into bytes_max, targets_max, backlog, backlog_max, backlog_at, targets
    from webhook.meta as m left join webhook.tenant as t on t.tenant = enqueue.tenant and t.backlog_max is not null
    where m.one;
    if webhook.passes(event_type, payload, tenant, idempotency_key, deliver_at, content_type, bytes_max) is not true then
        perform webhook.check_event(event_type, payload, tenant, idempotency_key, deliver_at, content_type);
    end if;
    if backlog_max is not null then
        perform webhook.check_backlog(tenant, backlog, backlog_max, backlog_at);
    end if;

    new_id := nextval('webhook.event_id');
    if idempotency_key is not null then
        insert into webhook.idempotency_key values (tenant, idempotency_key, new_id, now()) on conflict do nothing;
        if not found then
            select k.event_id into strict first_id from webhook.idempotency_key as k
            where k.tenant = enqueue.tenant and k.key = enqueue.idempotency_key;
            return first_id;
        end if;
    end if;
    insert into webhook.event (id, created_at, tenant, event_type, content_type, payload, trace)
    values (new_id, now(), tenant, event_type, content_type, payload,
            case when traceparent is not null then webhook.trace_context(traceparent, tracestate) end);
    if cardinality(targets) > targets_max then
        if coalesce(current_setting('webhook.subscriptions_changed', true), '') = '' then
            insert into webhook.fan_out (event_id, event_created_at, tenant, event_type, payload_bytes, run_at, snapshot)
            values (new_id, now(), tenant, event_type, octet_length(payload), deliver_at, pg_current_snapshot());
            return new_id;
        end if;
        -- No snapshot shows a transaction's own subscriptions: it pays for its fan-out itself.
        targets := array(
            select s.endpoint_id from webhook.subscription as s
            where s.tenant = enqueue.tenant and s.pattern = any (patterns) and s.removed is null
        );
    end if;
    if targets <> '{}' then  -- plain statements start faster than one with CTEs
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
        select nextval('webhook.delivery_id'), t.endpoint_id, deliver_at, new_id, now(), octet_length(payload)
        from (select distinct u.endpoint_id from unnest(targets) as u (endpoint_id)) as t;
        insert into webhook.wake (endpoint_id, run_at) select t.endpoint_id, deliver_at from unnest(targets) as t (endpoint_id);
    end if;
    return new_id;
end
$$;

create or replace function webhook.enqueue(
    event_type text, payload json, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json',
    traceparent text default null, tracestate text default null
) returns bigint
language sql
return webhook.enqueue(event_type, payload::text, tenant, idempotency_key, deliver_at, content_type, traceparent, tracestate);

create or replace function webhook.enqueue(
    event_type text, payload jsonb, tenant text default '', idempotency_key text default null,
    deliver_at timestamptz default now(), content_type text default 'application/json',
    traceparent text default null, tracestate text default null
) returns bigint
language sql
return webhook.enqueue(event_type, payload::text, tenant, idempotency_key, deliver_at, content_type, traceparent, tracestate);

-- Thousands of events in one statement. Ids come back in input order; an event whose key was used before, earlier in
-- this call or by anybody else, gives the first event's id.
create or replace function webhook.enqueue_many(
    event_types text[], payloads text[], tenant text default '', idempotency_keys text[] default null,
    deliver_at timestamptz default now(), content_type text default 'application/json',
    traceparents text[] default null, tracestates text[] default null
) returns setof bigint
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    drawn_ids bigint[];
    event_ids bigint[];
    limits record;
    targets_max bigint;
begin
    if event_types is null or payloads is null or cardinality(event_types) <> cardinality(payloads)
       or cardinality(idempotency_keys) <> cardinality(event_types)
       or cardinality(traceparents) <> cardinality(event_types) or cardinality(tracestates) <> cardinality(event_types) then
        raise exception 'webhook.enqueue_many: % event types, % payloads, % idempotency keys, % traceparents, % tracestates',
            coalesce(cardinality(event_types)::text, 'null'), coalesce(cardinality(payloads)::text, 'null'),
            coalesce(cardinality(idempotency_keys)::text, 'no'), coalesce(cardinality(traceparents)::text, 'no'),
            coalesce(cardinality(tracestates)::text, 'no')
            using errcode = 'invalid_parameter_value', hint = 'Give arrays of one length.';
    end if;
    select m.payload_bytes_max, m.fan_out_max, t.backlog, t.backlog_max, t.backlog_at into limits
    from webhook.meta as m left join webhook.tenant as t on t.tenant = enqueue_many.tenant and t.backlog_max is not null
    where m.one;
    perform webhook.check_event(i.event_type, i.payload, tenant, i.key, deliver_at, content_type)
    from unnest(event_types, payloads, idempotency_keys) as i (event_type, payload, key)
    where webhook.passes(i.event_type, i.payload, tenant, i.key, deliver_at, content_type, limits.payload_bytes_max) is not true;
    if limits.backlog_max is not null then
        perform webhook.check_backlog(tenant, limits.backlog, limits.backlog_max, limits.backlog_at);
    end if;
    -- A transaction that changed subscriptions itself pays for its fan-out: no snapshot shows its own.
    targets_max := case when coalesce(current_setting('webhook.subscriptions_changed', true), '') = '' then limits.fan_out_max end;

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

    -- From here on this transaction is seen to run: forget_subscriptions waits for the snapshot that the next statement keeps.
    perform pg_current_xact_id();
    -- An id that was not drawn at its own place belongs to an earlier event: nothing to queue for it.
    with stored as (
        insert into webhook.event (id, created_at, tenant, event_type, content_type, payload, trace)
        select i.id, now(), enqueue_many.tenant, i.event_type, enqueue_many.content_type, i.payload,
               case when i.traceparent is not null then webhook.trace_context(i.traceparent, i.tracestate) end
        from unnest(event_ids, drawn_ids, event_types, payloads, traceparents, tracestates)
             as i (id, drawn_id, event_type, payload, traceparent, tracestate)
        where i.id = i.drawn_id
        returning event.id, event.event_type, octet_length(event.payload) as bytes
    ), topic as materialized (
        select t.name, array(
            select s.endpoint_id from webhook.subscription as s
            where s.tenant = enqueue_many.tenant and s.pattern = any (webhook.patterns(t.name)) and s.removed is null
            limit targets_max + 1
        ) as targets
        from (select distinct st.event_type as name from stored as st) as t
    ), left_to_workers as (
        insert into webhook.fan_out (event_id, event_created_at, tenant, event_type, payload_bytes, run_at, snapshot)
        select e.id, now(), enqueue_many.tenant, e.event_type, e.bytes, deliver_at, pg_current_snapshot()
        from topic as t join stored as e on e.event_type = t.name
        where cardinality(t.targets) > targets_max
    ), target as (
        select distinct e.id, e.bytes, u.endpoint_id
        from topic as t
        join stored as e on e.event_type = t.name
        cross join lateral unnest(t.targets) as u (endpoint_id)
        where (cardinality(t.targets) > targets_max) is not true
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
