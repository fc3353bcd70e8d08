-- Erasure: the payloads of events, and what receivers answered. `begin_purge` says so in the audit log; whose events it is about, and
-- which, is in that row, and every step after it is given its number. Each is a transaction of its own, over a bounded range of ids:
-- purge_fan_out once, purge_events from one range to the next, purge_endpoint for each endpoint until it returns 0, purge_answers from
-- one range to the next; and all of it again until nothing was found: deliveries may have been made meanwhile.

-- Returns the number of the audit log's row, whose events these are, and the newest that is meant: what is enqueued afterwards is not.
create or replace function webhook.begin_purge(
    tenant text, event_id bigint, actor text, reason text, out purge bigint, out of_tenant text, out event_from bigint, out event_to bigint
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if (tenant is null) = (event_id is null) then
        raise exception 'webhook: a purge is of a tenant or of one event' using errcode = 'invalid_parameter_value';
    end if;
    of_tenant := tenant;
    event_from := coalesce(event_id, 0);
    event_to := event_id;
    if event_id is not null then
        select e.tenant into of_tenant from webhook.events as e where e.id = begin_purge.event_id;
        if of_tenant is null then
            raise exception 'webhook: there is no event %', event_id using errcode = 'no_data_found';
        end if;
    else
        select s.last_value into event_to from webhook.event_id as s;
    end if;
    insert into webhook.audit (actor, action, reason, details)
    values (actor, 'events.purge', reason,
            jsonb_build_object('tenant', of_tenant, 'event_id', event_id, 'from', event_from, 'to', event_to))
    returning id into purge;
end
$$;

-- What a purge is about, by its number.
create or replace function webhook.purge_of(purge bigint, out tenant text, out event_from bigint, out event_to bigint, out actor text)
returns record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
begin
    select a.details ->> 'tenant', (a.details ->> 'from')::bigint, (a.details ->> 'to')::bigint, a.actor
    into tenant, event_from, event_to, actor
    from webhook.audit as a where a.id = purge and a.action = 'events.purge';
    if tenant is null then
        raise exception 'webhook: there is no purge %', purge using errcode = 'no_data_found', hint = 'begin_purge begins one.';
    end if;
end
$$;

-- No more deliveries are made of these events by workers.
create or replace function webhook.purge_fan_out(purge bigint) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    p record := webhook.purge_of(purge);
    removed int;
begin
    delete from webhook.fan_out as f where f.tenant = p.tenant and f.event_id between p.event_from and p.event_to;
    get diagnostics removed = row_count;
    return removed;
end
$$;

-- Removes events with their payloads, and, of a whole tenant, their idempotency keys: of `rows_max` ids, from the first one that there
-- is after `after` on. Returns how many events and keys, and after which id to go on; null: that was all.
create or replace function webhook.purge_events(purge bigint, after bigint, rows_max int, out removed int, out next bigint)
returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    p record := webhook.purge_of(purge);
    first bigint := greatest(after + 1, p.event_from);
    step int;
begin
    removed := 0;
    select least(
        (select e.id from webhook.event as e where e.id >= first order by e.id limit 1),
        (select k.id from webhook.event_kept as k where k.id >= first order by k.id limit 1)) into first;
    if first is null or first > p.event_to then
        if p.event_from < p.event_to then  -- those whose events are gone already
            delete from webhook.idempotency_key as k where (k.tenant, k.key) in (
                select i.tenant, i.key from webhook.idempotency_key as i
                where i.tenant = p.tenant and i.event_id <= p.event_to limit rows_max);
            get diagnostics removed = row_count;
            next := case when removed > 0 then after end;
        end if;
        return;
    end if;
    next := least(p.event_to, first + rows_max - 1);
    delete from webhook.event as e where e.id between first and next and e.tenant = p.tenant;
    get diagnostics removed = row_count;
    delete from webhook.event_kept as k where k.id between first and next and k.tenant = p.tenant;
    get diagnostics step = row_count;
    removed := removed + step;
end
$$;

-- Cancels an endpoint's unfinished deliveries of these events. What is in flight is taken from its worker first, whose outcome is then
-- fenced off: no answer is stored afterwards. Returns how many were found: 0 says that none is left.
create or replace function webhook.purge_endpoint(purge bigint, endpoint_id bigint, rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    p record := webhook.purge_of(purge);
    taken json;
    found_rows int;
begin
    if not exists (select from webhook.endpoint as e where e.id = purge_endpoint.endpoint_id and e.tenant = p.tenant) then
        return 0;
    end if;
    perform from webhook.claim_batch as b where b.claim_id in (
        select i.claim_id from webhook.inflight as i
        where i.endpoint_id = purge_endpoint.endpoint_id and i.event_id between p.event_from and p.event_to
    ) order by b.claim_id for update;
    select json_agg(json_build_array(i.claim_id, i.id, 'retry', 'interrupted', null, 0, 0, null, 'its event was purged', 0, null, null))
    into taken
    from webhook.inflight as i
    where i.endpoint_id = purge_endpoint.endpoint_id and i.event_id between p.event_from and p.event_to;
    if taken is not null then
        perform webhook.record(p.actor, taken::text);
    end if;
    perform webhook.lock_endpoint(endpoint_id);
    with gone as (
        delete from webhook.pending as d where d.id = any (array(
            select q.id from webhook.pending as q
            where q.endpoint_id = purge_endpoint.endpoint_id and q.event_id between p.event_from and p.event_to limit rows_max))
        returning d.*
    ), released as (
        delete from webhook.held_delivery as h using gone as g where h.delivery_id = g.id
    )
    insert into webhook.finished
        (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_error)
    select g.id, clock_timestamp(), 'cancelled', g.endpoint_id, g.event_id, g.event_created_at, g.payload_bytes, g.attempt, 'purged'
    from gone as g;
    get diagnostics found_rows = row_count;
    return found_rows + (  -- claimed while this waited for the lock: come again
        select count(*) from webhook.inflight as i
        where i.endpoint_id = purge_endpoint.endpoint_id and i.event_id between p.event_from and p.event_to);
end
$$;

-- Removes what receivers answered, and errors, which may quote it, of the deliveries with `rows_max` ids, from the first that was
-- attempted after `after` on. Returns of how many attempts, and after which id to go on; null: that was all.
create or replace function webhook.purge_answers(purge bigint, after bigint, rows_max int, out cleared int, out next bigint)
returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    p record := webhook.purge_of(purge);
    first bigint;
begin
    cleared := 0;
    select a.delivery_id into first from webhook.attempt as a where a.delivery_id > after order by a.delivery_id limit 1;
    if first is null then
        return;
    end if;
    next := first + rows_max - 1;
    update webhook.attempt as a set response = null, error = null
    where a.delivery_id between first and next and a.event_id between p.event_from and p.event_to
      and (a.response is not null or a.error is not null)
      and a.endpoint_id in (select e.id from webhook.endpoint as e where e.tenant = p.tenant);
    get diagnostics cleared = row_count;
    update webhook.finished as f set last_error = split_part(f.last_error, ':', 1)
    where f.id between first and next and f.event_id between p.event_from and p.event_to
      and f.last_error like '%:%'
      and f.endpoint_id in (select e.id from webhook.endpoint as e where e.tenant = p.tenant);
end
$$;
