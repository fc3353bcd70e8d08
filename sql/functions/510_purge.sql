-- Erasure: the payloads of events, and what receivers answered. Steps of bounded size, each a transaction of its own, in this order:
-- begin_purge, purge_endpoint for each endpoint until it returns 0, purge_responses for each partition, purge_payloads until 0.
-- Interrupted, the same again goes on with what is left.

-- Says in the audit log what is about to be removed. Returns the tenant, and the newest event that is meant: those that are enqueued
-- while it runs are not.
create or replace function webhook.begin_purge(
    tenant text, event_id bigint, actor text, reason text, out of_tenant text, out up_to bigint
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if (tenant is null) = (event_id is null) then
        raise exception 'webhook: a purge is of a tenant or of one event' using errcode = 'invalid_parameter_value';
    end if;
    if event_id is not null then
        select e.tenant into of_tenant from webhook.events as e where e.id = begin_purge.event_id;
        up_to := event_id;
    elsif exists (select from webhook.tenant as t where t.tenant = begin_purge.tenant) then
        of_tenant := tenant;
        select s.last_value into up_to from webhook.event_id as s;
    end if;
    if of_tenant is null then
        raise exception 'webhook: there is no %', coalesce('event ' || event_id, format('tenant %L', tenant)) using errcode = 'no_data_found';
    end if;
    insert into webhook.audit (actor, action, reason, details)
    values (actor, 'events.purge', reason, jsonb_build_object('tenant', of_tenant, 'event_id', event_id, 'up_to', up_to));
end
$$;

-- Cancels an endpoint's unfinished deliveries of these events. What is in flight is taken from its worker first, whose outcome is then
-- fenced off: no answer is stored afterwards. Returns how many were cancelled.
create or replace function webhook.purge_endpoint(endpoint_id bigint, event_from bigint, event_to bigint, rows_max int, actor text)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    taken json;
    cancelled int;
begin
    perform from webhook.claim_batch as b where b.claim_id in (
        select i.claim_id from webhook.inflight as i
        where i.endpoint_id = purge_endpoint.endpoint_id and i.event_id between event_from and event_to
    ) order by b.claim_id for update;
    select json_agg(json_build_array(i.claim_id, i.id, 'retry', 'interrupted', null, 0, 0, null, 'its event was purged', 0, null, null))
    into taken
    from webhook.inflight as i
    where i.endpoint_id = purge_endpoint.endpoint_id and i.event_id between event_from and event_to;
    if taken is not null then
        perform webhook.record(actor, taken::text);
    end if;
    perform webhook.lock_endpoint(endpoint_id);
    with gone as (
        delete from webhook.pending as p where p.id = any (array(
            select q.id from webhook.pending as q
            where q.endpoint_id = purge_endpoint.endpoint_id and q.event_id between event_from and event_to limit rows_max))
        returning p.*
    )
    insert into webhook.finished
        (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_error)
    select g.id, clock_timestamp(), 'cancelled', g.endpoint_id, g.event_id, g.event_created_at, g.payload_bytes, g.attempt, 'purged'
    from gone as g;
    get diagnostics cancelled = row_count;
    return cancelled;
end
$$;

-- The partitions of attempts that may hold some of an event's, or of any (null).
create or replace function webhook.attempt_partitions() returns setof text
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select c.relname::text from pg_inherits as h join pg_class as c on c.oid = h.inhrelid
    where h.inhparent = 'webhook.attempt'::regclass order by c.relname;
end;

-- Removes what receivers answered from one partition of attempts. Returns from how many. A partition that retention has dropped
-- meanwhile holds nothing.
create or replace function webhook.purge_responses(partition text, tenant text, event_from bigint, event_to bigint) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    cleared bigint;
begin
    execute format('update webhook.%I as a set response = null, error = null
        where (a.response is not null or a.error is not null) and a.event_id between $2 and $3
          and a.endpoint_id in (select e.id from webhook.endpoint as e where e.tenant = $1)', partition)
    using tenant, event_from, event_to;
    get diagnostics cleared = row_count;
    return cleared;
exception when undefined_table then
    return 0;
end
$$;

-- Removes events with their payloads, their fan-out that is not finished, and, of a whole tenant, its idempotency keys: at most so many
-- rows of each. Returns the number of events and keys.
create or replace function webhook.purge_payloads(tenant text, event_from bigint, event_to bigint, rows_max int)
returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    step int;
    removed int := 0;
begin
    delete from webhook.fan_out as f
    where f.tenant = purge_payloads.tenant and f.event_id between event_from and event_to;
    delete from webhook.event as e using (
        select v.id, v.created_at from webhook.event as v
        where v.tenant = purge_payloads.tenant and v.id between event_from and event_to order by v.id limit rows_max
    ) as v where e.id = v.id and e.created_at = v.created_at;
    get diagnostics step = row_count;
    removed := removed + step;
    delete from webhook.event_kept as e where (e.id, e.created_at) in (
        select v.id, v.created_at from webhook.event_kept as v
        where v.tenant = purge_payloads.tenant and v.id between event_from and event_to limit rows_max);
    get diagnostics step = row_count;
    removed := removed + step;
    if event_from < event_to then
        delete from webhook.idempotency_key as k where (k.tenant, k.key) in (
            select i.tenant, i.key from webhook.idempotency_key as i
            where i.tenant = purge_payloads.tenant and i.event_id <= event_to limit rows_max);
        get diagnostics step = row_count;
        removed := removed + step;
    end if;
    return removed;
end
$$;
