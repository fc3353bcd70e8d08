-- Which deliveries match a filter: {state, endpoint_id, tenant, event_type, created_since, created_before, last_error (its first
-- word, an outcome), last_status; set_aside: whether an operator holds it}; what is not given does not filter. One function a table.
-- They are plain SQL and run with the caller's rights, so that the planner sees through them: what the caller adds (a range of ids,
-- an order, a limit) uses the indexes.

create or replace function webhook.matching_pending(filters jsonb) returns table (id bigint, endpoint_id bigint)
language sql stable
begin atomic
    select p.id, p.endpoint_id
    from webhook.pending as p join webhook.endpoint_sched as s using (endpoint_id)
    where (filters ->> 'state' is null
           or filters ->> 'state' = case when s.state = 'enabled' and p.run_at < 'infinity' then 'pending' else 'held' end)
      and (filters ->> 'set_aside' is null or (p.run_at = 'infinity') = (filters ->> 'set_aside')::boolean)
      and (filters ->> 'endpoint_id' is null or p.endpoint_id = (filters ->> 'endpoint_id')::bigint)
      and (filters ->> 'tenant' is null or exists (
          select from webhook.endpoint as e where e.id = p.endpoint_id and e.tenant = filters ->> 'tenant'))
      and (filters ->> 'event_type' is null or exists (
          select from webhook.events as v
          where v.id = p.event_id and v.created_at = p.event_created_at and v.event_type = filters ->> 'event_type'))
      and (filters ->> 'created_since' is null or p.event_created_at >= (filters ->> 'created_since')::timestamptz)
      and (filters ->> 'created_before' is null or p.event_created_at < (filters ->> 'created_before')::timestamptz)
      and ((filters ->> 'last_error' is null and filters ->> 'last_status' is null) or exists (
          select from (
              select a.outcome, a.status from webhook.attempt as a where a.delivery_id = p.id order by a.attempt desc limit 1
          ) as a
          where (filters ->> 'last_error' is null or a.outcome = filters ->> 'last_error')
            and (filters ->> 'last_status' is null or a.status = (filters ->> 'last_status')::int)));
end;

create or replace function webhook.matching_inflight(filters jsonb) returns table (id bigint, endpoint_id bigint)
language sql stable
begin atomic
    select i.id, i.endpoint_id
    from webhook.inflight as i
    where (filters ->> 'state' is null or filters ->> 'state' = 'in_flight')
      and (filters ->> 'endpoint_id' is null or i.endpoint_id = (filters ->> 'endpoint_id')::bigint)
      and (filters ->> 'tenant' is null or exists (
          select from webhook.endpoint as e where e.id = i.endpoint_id and e.tenant = filters ->> 'tenant'))
      and (filters ->> 'event_type' is null or exists (
          select from webhook.events as v
          where v.id = i.event_id and v.created_at = i.event_created_at and v.event_type = filters ->> 'event_type'))
      and (filters ->> 'created_since' is null or i.event_created_at >= (filters ->> 'created_since')::timestamptz)
      and (filters ->> 'created_before' is null or i.event_created_at < (filters ->> 'created_before')::timestamptz)
      and ((filters ->> 'last_error' is null and filters ->> 'last_status' is null) or exists (
          select from (
              select a.outcome, a.status from webhook.attempt as a where a.delivery_id = i.id order by a.attempt desc limit 1
          ) as a
          where (filters ->> 'last_error' is null or a.outcome = filters ->> 'last_error')
            and (filters ->> 'last_status' is null or a.status = (filters ->> 'last_status')::int)));
end;

-- A delivery finishes after its event was created, so `created_since` prunes partitions of finished ones, too.
create or replace function webhook.matching_finished(filters jsonb)
returns table (id bigint, endpoint_id bigint, finished_at timestamptz)
language sql stable
begin atomic
    select f.id, f.endpoint_id, f.finished_at
    from webhook.finished as f
    where (filters ->> 'state' is null or f.state = filters ->> 'state')
      and (filters ->> 'endpoint_id' is null or f.endpoint_id = (filters ->> 'endpoint_id')::bigint)
      and (filters ->> 'tenant' is null or exists (
          select from webhook.endpoint as e where e.id = f.endpoint_id and e.tenant = filters ->> 'tenant'))
      and (filters ->> 'event_type' is null or exists (
          select from webhook.events as v
          where v.id = f.event_id and v.created_at = f.event_created_at and v.event_type = filters ->> 'event_type'))
      and (filters ->> 'created_since' is null or (
          f.event_created_at >= (filters ->> 'created_since')::timestamptz
          and f.finished_at >= (filters ->> 'created_since')::timestamptz))
      and (filters ->> 'created_before' is null or f.event_created_at < (filters ->> 'created_before')::timestamptz)
      and (filters ->> 'last_error' is null or split_part(f.last_error, ':', 1) = filters ->> 'last_error')
      and (filters ->> 'last_status' is null or f.last_status = (filters ->> 'last_status')::int);
end;
