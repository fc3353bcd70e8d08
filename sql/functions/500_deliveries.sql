-- What operators do to single deliveries: retry, cancel, hold, release. Jobs (530_jobs.sql) do the same to many.

-- Does it to deliveries of one endpoint, whose row it locks, as everybody does who writes to `pending`; each that is still in one of
-- the states that the action is for:
--   retry    what is waiting, dead or cancelled, and by force delivered: due at its moment, its retry schedule from the start
--   cancel   what is waiting: it ends as cancelled
--   hold     what is waiting, and not set aside: it waits for `release`
--   release  what was set aside: due when it would have been, and not before its moment
-- `only_state` and `finished_before` (null: any) are looked at again under the lock: what has changed since it was chosen is left
-- alone. So is what is in flight, and what cannot be sent again since its event is gone. Returns what was done, and what it was before.
create or replace function webhook.change_deliveries(
    action text, owner bigint, ids bigint[], moments timestamptz[], force boolean, only_state text, finished_before timestamptz,
    actor text, reason text, out changed bigint[], out states text[]
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner_is_enabled boolean := webhook.lock_endpoint(owner) = 'enabled';
    sendable bigint[];
    due timestamptz;
begin
    case action
    when 'retry' then
        -- Locked where they are, so that retention does not take an event away while this makes it needed again.
        select array_agg(l.id) into sendable from (
            select f.id from webhook.finished as f join webhook.event as e on e.id = f.event_id and e.created_at = f.event_created_at
            where f.id = any (ids) for key share of e
        ) as l;
        select array_cat(sendable, array_agg(l.id)) into sendable from (
            select f.id from webhook.finished as f join webhook.event_kept as k on k.id = f.event_id and k.created_at = f.event_created_at
            where f.id = any (ids) and f.id <> all (coalesce(sendable, '{}')) for key share of k
        ) as l;
        with wanted as (
            select w.id, w.due from unnest(ids, moments) as w (id, due)
        ), ended as (
            delete from webhook.finished as f using wanted as w
            where f.id = w.id and f.id = any (sendable) and f.finished_at < coalesce(finished_before, 'infinity')
              and (only_state is null or f.state = only_state) and (force or f.state <> 'delivered')
            returning f.*, w.due
        ), queued as (
            insert into webhook.pending
                (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes, attempt, attempts_before)
            select e.id, e.endpoint_id, e.due, e.event_id, e.event_created_at, e.payload_bytes, e.attempt, e.attempt
            from ended as e
        ), waiting as (
            update webhook.pending as p set run_at = w.due, attempts_before = p.attempt
            from wanted as w join webhook.pending as o on o.id = w.id cross join lateral (
                select case when owner_is_enabled and o.run_at < 'infinity' then 'pending' else 'held' end as state
            ) as was
            where p.id = o.id and (only_state is null or was.state = only_state)
            returning p.id, was.state, w.due
        ), released as (
            delete from webhook.held_delivery as h using waiting as w where h.delivery_id = w.id
        )
        select array_agg(c.id), array_agg(c.state), min(c.due) into changed, states, due
        from (select e.id, e.state, e.due from ended as e union all select w.id, w.state, w.due from waiting as w) as c;
    when 'cancel' then
        with gone as (
            delete from webhook.pending as p using webhook.pending as o cross join lateral (
                select case when owner_is_enabled and o.run_at < 'infinity' then 'pending' else 'held' end as state
            ) as was
            where o.id = any (ids) and p.id = o.id and (only_state is null or was.state = only_state)
            returning p.*, was.state
        ), ended as (
            insert into webhook.finished
                (id, finished_at, state, endpoint_id, event_id, event_created_at, payload_bytes, attempt, last_error)
            select g.id, clock_timestamp(), 'cancelled', g.endpoint_id, g.event_id, g.event_created_at, g.payload_bytes, g.attempt,
                   concat_ws(': ', 'cancelled', nullif(reason, ''))
            from gone as g
        ), released as (
            delete from webhook.held_delivery as h using gone as g where h.delivery_id = g.id
        )
        select array_agg(g.id), array_agg(g.state) into changed, states from gone as g;
    when 'hold' then
        with taken as (
            update webhook.pending as p set run_at = 'infinity'
            from webhook.pending as o cross join lateral (
                select case when owner_is_enabled then 'pending' else 'held' end as state
            ) as was
            where o.id = any (ids) and p.id = o.id and o.run_at < 'infinity' and (only_state is null or was.state = only_state)
            returning p.id, o.run_at, was.state
        ), noted as (
            insert into webhook.held_delivery (delivery_id, run_at, actor, reason)
            select t.id, t.run_at, change_deliveries.actor, change_deliveries.reason from taken as t
        )
        select array_agg(t.id), array_agg(t.state) into changed, states from taken as t;
    when 'release' then
        with freed as (
            update webhook.pending as p set run_at = greatest(w.due, h.run_at)
            from unnest(ids, moments) as w (id, due) left join webhook.held_delivery as h on h.delivery_id = w.id
            where p.id = w.id and p.run_at = 'infinity'
            returning p.id, p.run_at
        ), forgotten as (
            delete from webhook.held_delivery as h using freed as f where h.delivery_id = f.id
        )
        select array_agg(f.id), array_agg('held'::text), min(f.run_at) into changed, states, due from freed as f;
    end case;
    changed := coalesce(changed, '{}');
    if due is not null then
        update webhook.endpoint_sched as s set
            version = s.version + 1,
            head = least(s.head, due),
            next_at = case when s.state = 'enabled' and s.turn is null and s.circuit <> 'half_open'
                           then least(s.next_at, greatest(due, clock_timestamp(), s.not_before)) else s.next_at end
        where s.endpoint_id = owner;
    end if;
end
$$;

-- The endpoint of a delivery.
create or replace function webhook.owner_of(delivery_id bigint) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    owner bigint;
begin
    select d.endpoint_id into owner from webhook.deliveries as d where d.id = owner_of.delivery_id;
    if owner is null then
        raise exception 'webhook: there is no delivery %', delivery_id using errcode = 'no_data_found';
    end if;
    return owner;
end
$$;

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
    owner bigint := webhook.owner_of(delivery_id);
    before text;
    held_by bigint;
    done record;
begin
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
    done := webhook.change_deliveries(
        'retry', owner, array[delivery_id], array[clock_timestamp()], force, null, null, actor, reason);
    if done.changed = '{}' then
        raise exception 'webhook: the event of delivery % is gone: it outlived its retention', delivery_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Enqueue a new event; --retain-events keeps them longer.';
    end if;
    insert into webhook.audit (actor, action, endpoint_id, delivery_id, reason, details)
    values (actor, 'delivery.retry', owner, delivery_id, reason, jsonb_build_object('state_before', before, 'forced', force));
    return before;
end
$$;

-- Cancels, holds or releases one delivery; see the three functions below. Returns the state that it was in.
create or replace function webhook.change_delivery(action text, delivery_id bigint, actor text, reason text) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    owner bigint := webhook.owner_of(delivery_id);
    done record := webhook.change_deliveries(
        action, owner, array[delivery_id], array[clock_timestamp()], false, null, null, actor, reason);
    current_state text;
begin
    if done.changed = '{}' then
        select d.state into current_state from webhook.deliveries as d where d.id = change_delivery.delivery_id;
        raise exception 'webhook: delivery % is %', delivery_id, case
                when current_state = 'held' and action = 'hold' then 'held by an operator already' else replace(current_state, '_', ' ') end
            using errcode = 'object_not_in_prerequisite_state', hint = case
                when current_state = 'in_flight' and action <> 'release' then
                    'A worker may be sending it just now, and what is sent cannot be taken back. If the attempt fails, it waits for its '
                    'retry: try again then; or pause its endpoint first.'
                when current_state = 'held' and action = 'release' then 'Its endpoint is paused or disabled: resume or enable that.'
                when action = 'release' then 'Only what an operator holds is released.'
                when current_state = 'held' then 'Release it first, to hold it for another reason.'
                else 'It has ended: there is nothing left to ' || action || '.' end;
    end if;
    insert into webhook.audit (actor, action, endpoint_id, delivery_id, reason, details)
    values (actor, 'delivery.' || action, owner, delivery_id, reason, jsonb_build_object('state_before', done.states[1]));
    return done.states[1];
end
$$;

-- Ends a delivery that waits: it is `cancelled`, and `retry` may bring it back.
create or replace function webhook.cancel_delivery(delivery_id bigint, actor text default session_user, reason text default '')
returns text
language sql
return webhook.change_delivery('cancel', delivery_id, actor, reason);

-- Sets a delivery that waits aside, until it is released.
create or replace function webhook.hold_delivery(delivery_id bigint, actor text default session_user, reason text default '')
returns text
language sql
return webhook.change_delivery('hold', delivery_id, actor, reason);

-- Lets a delivery go that an operator set aside: it is due when it would have been.
create or replace function webhook.release_delivery(delivery_id bigint, actor text default session_user, reason text default '')
returns text
language sql
return webhook.change_delivery('release', delivery_id, actor, reason);
