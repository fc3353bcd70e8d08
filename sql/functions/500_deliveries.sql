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
    if before in ('delivered', 'dead', 'cancelled') then
        -- Locked where it is, so that retention does not take the event away while this makes it needed again.
        perform from webhook.finished as f join webhook.event as e on e.id = f.event_id and e.created_at = f.event_created_at
        where f.id = retry_delivery.delivery_id for key share of e;
        if not found then
            perform from webhook.finished as f
            join webhook.event_kept as k on k.id = f.event_id and k.created_at = f.event_created_at
            where f.id = retry_delivery.delivery_id for key share of k;
        end if;
        if not found then
            raise exception 'webhook: the event of delivery % is gone: it outlived its retention', delivery_id
                using errcode = 'object_not_in_prerequisite_state', hint = 'Enqueue a new event; --retain-events keeps them longer.';
        end if;
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
        version = s.version + 1,
        head = least(s.head, due),
        next_at = case when s.state = 'enabled' and s.turn is null and s.circuit <> 'half_open' then least(s.next_at, greatest(clock_timestamp(), s.not_before)) else s.next_at end
    where s.endpoint_id = owner;
    insert into webhook.audit (actor, action, endpoint_id, delivery_id, reason, details)
    values (actor, 'delivery.retry', owner, delivery_id, reason, jsonb_build_object('state_before', before, 'forced', force));
    return before;
end
$$;
