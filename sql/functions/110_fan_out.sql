-- Wide fan-out: what a producer left to the workers. Which endpoints an event goes to does not depend on when the batches run:
-- a subscription counts if the producer's snapshot saw it, and did not see its removal.
-- A transaction id that lies ahead of this cluster came with a dump of another one: it counts as long past.

-- Makes the next deliveries of one wide event, at most `rows_max`. Returns whether there may be more to do. One transaction:
-- a crash leaves the cursor where it was, so each endpoint gets its delivery exactly once.
create or replace function webhook.fan_out_step(rows_max int default 1000) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    job record;
    made int;
    last_endpoint bigint;
begin
    select f.* into job from webhook.fan_out as f order by f.event_id limit 1 for update skip locked;
    if not found then
        return false;
    end if;
    with seen as materialized (  -- for each pattern the next endpoints, by the index
        select s.endpoint_id
        from unnest(webhook.patterns(job.event_type)) as t (pattern)
        cross join lateral (
            select n.endpoint_id from webhook.subscription as n
            where n.tenant = job.tenant and n.pattern = t.pattern and n.endpoint_id > job.cursor
              and n.endpoint_id is distinct from job.about
              and (pg_visible_in_snapshot(n.added, job.snapshot)
                   or n.added >= (select pg_snapshot_xmax(pg_current_snapshot())))
              and (n.removed is null
                   or not (pg_visible_in_snapshot(n.removed, job.snapshot)
                           or n.removed >= (select pg_snapshot_xmax(pg_current_snapshot()))))
            order by n.endpoint_id limit rows_max
        ) as s
        where job.about is null or t.pattern <> '*'
    ), target as materialized (
        select distinct s.endpoint_id from seen as s order by s.endpoint_id limit rows_max
    ), queued as (
        insert into webhook.pending (id, endpoint_id, run_at, event_id, event_created_at, payload_bytes)
        select nextval('webhook.delivery_id'), t.endpoint_id, job.run_at, job.event_id, job.event_created_at, job.payload_bytes
        from target as t
    ), woken as (
        insert into webhook.wake (endpoint_id, run_at) select t.endpoint_id, job.run_at from target as t
    )
    select count(*), max(t.endpoint_id) into made, last_endpoint from target as t;
    if made = rows_max then
        update webhook.fan_out as f set cursor = last_endpoint where f.event_id = job.event_id;
        return true;
    end if;
    delete from webhook.fan_out as f where f.event_id = job.event_id;
    return exists (select from webhook.fan_out);
end
$$;

-- Gives an endpoint the subscriptions that its event types say. What it loses is marked, not deleted: a fan-out that is under
-- way may need it. A row of this very transaction was seen by nobody else.
create or replace function webhook.subscribe(endpoint_id bigint) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    patterns text[];
begin
    select array(select webhook.endpoint_patterns(e.event_types)) into patterns
    from webhook.endpoint as e where e.id = subscribe.endpoint_id;
    delete from webhook.subscription as s
    where s.endpoint_id = subscribe.endpoint_id and s.removed is null and s.pattern <> all (patterns)
      and s.added = pg_current_xact_id();
    update webhook.subscription as s set removed = pg_current_xact_id()
    where s.endpoint_id = subscribe.endpoint_id and s.removed is null and s.pattern <> all (patterns);
    insert into webhook.subscription (tenant, pattern, endpoint_id)
    select e.tenant, p.pattern, e.id from webhook.endpoint as e, unnest(patterns) as p (pattern)
    where e.id = subscribe.endpoint_id
    on conflict do nothing;
    -- Tells an enqueue later in this transaction that no snapshot can describe what it sees.
    perform set_config('webhook.subscriptions_changed', 'yes', true);
end
$$;

-- Deletes removed subscriptions that no fan-out can need: all transactions that ran when the removal was seen have ended, and
-- no waiting event saw them valid. Returns how many.
create or replace function webhook.forget_subscriptions() returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    forgotten int;
begin
    delete from webhook.subscription as s
    where s.removed is not null and s.retired <= pg_snapshot_xmin(pg_current_snapshot())
      and not exists (select from webhook.fan_out as f where not pg_visible_in_snapshot(s.removed, f.snapshot));
    get diagnostics forgotten = row_count;
    update webhook.subscription as s set retired = pg_snapshot_xmax(pg_current_snapshot())
    where s.removed is not null and s.retired is null;
    return forgotten;
end
$$;
