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
        select distinct s.endpoint_id from webhook.endpoint_sched as s
        where s.endpoint_id > after_endpoint order by s.endpoint_id limit endpoints_max
    ), owed as (
        select l.endpoint_id, (
            select min(p.run_at) from webhook.pending as p where p.endpoint_id = l.endpoint_id
        ) as due_at
        from slice as l
    ), missed as materialized (
        select s.endpoint_id, greatest(o.due_at, webhook.ready_at(
            s.not_before, s.tat, webhook.rate_at(s.rate, s.recovering_since, clock_timestamp()), s.burst)) as visit_at, o.due_at
        from owed as o join webhook.endpoint_sched as s using (endpoint_id)
        where s.state = 'enabled' and s.in_flight < s.max_in_flight and o.due_at < 'infinity'
          and s.turn is null and s.circuit <> 'half_open'
          and s.endpoint_id <> all (array(select w.endpoint_id from webhook.wake as w))  -- about to be woken
    ), locked as materialized (  -- the same again, under the lock
        select s.endpoint_id, m.due_at, m.visit_at
        from missed as m join webhook.endpoint_sched as s using (endpoint_id)
        where s.state = 'enabled' and s.in_flight < s.max_in_flight and s.turn is null and s.circuit <> 'half_open'
          and s.next_at > greatest(m.visit_at, s.not_before, clock_timestamp()) + interval '1 s'
        order by s.endpoint_id for no key update of s
    ), woken as (
        update webhook.endpoint_sched as s set
            version = s.version + 1,
            head = least(s.head, l.due_at),
            next_at = greatest(l.visit_at, s.not_before, clock_timestamp())
        from locked as l where s.endpoint_id = l.endpoint_id
        returning s.endpoint_id
    )
    select (select count(*) from woken), (select max(l.endpoint_id) from slice as l) into fixed, last_endpoint;
end
$$;

-- One turn of housekeeping for whichever worker comes first; the others find nothing due. One task a call: each is short,
-- and no task holds its locks while another runs. Returns what was done, as JSON text.
-- What was done always has "task", and "more" where something else is due; {} says that nothing was. The keep_… are
-- retentions; null keeps for ever.
-- A task that fails is undone, said as "failed", and tried again in a minute: it must not keep the others from their turns.
create or replace function webhook.maintain(
    reconcile_every interval default '45 s', keep_idempotency_keys interval default '30 days',
    keep_events interval default null, keep_deliveries interval default null, keep_attempts interval default null
) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    turn record;
    step record;
    done jsonb := '{}';
    turn_started timestamptz := clock_timestamp();
    deleted int;
begin
    for turn in
        select m.task, m.cursor from webhook.maintenance as m
        where m.due_at <= clock_timestamp() order by m.due_at limit 1 for update skip locked
    loop
        done := jsonb_build_object('task', turn.task);
        begin
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
        when 'floor' then
            update webhook.maintenance as m set due_at = clock_timestamp() + webhook.raise_floor() where m.task = turn.task;
        when 'wake' then
            done := done || jsonb_build_object('wake_emptied', webhook.empty_wake());
            update webhook.maintenance as m set due_at = clock_timestamp() + interval '5 s' where m.task = turn.task;
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
        when 'backlogs' then
            done := done || webhook.measure_backlogs();
            update webhook.maintenance as m set due_at = clock_timestamp() + case
                when exists (select from webhook.tenant as t where t.backlog_max is not null)
                then greatest(interval '1 s', 10 * (clock_timestamp() - turn_started)) else interval '10 s' end
            where m.task = turn.task;
        when 'retention' then
            done := done || webhook.retain(keep_events, keep_deliveries, keep_attempts);
            update webhook.maintenance as m set due_at = clock_timestamp() + case
                when done ? 'locked' then interval '1 minute'
                when done ? 'kept' or done ? 'dropped' or done ? 'deleted' then interval '0' else interval '10 minutes' end
            where m.task = turn.task;
        when 'kept_events' then
            deleted := webhook.forget_kept_events(keep_events);
            done := done || jsonb_build_object('kept_events_deleted', deleted);
            update webhook.maintenance as m set
                due_at = clock_timestamp() + case when deleted > 0 then interval '10 s' else interval '1 hour' end
            where m.task = turn.task;
        when 'workers' then
            delete from webhook.worker as w where w.seen_at < clock_timestamp() - interval '1 hour';
            update webhook.maintenance as m set due_at = clock_timestamp() + interval '10 minutes' where m.task = turn.task;
        when 'jobs' then
            select * into step from webhook.job_step();
            done := done || step.done;
            update webhook.maintenance as m set due_at = step.due_at where m.task = turn.task;
        when 'subscriptions' then
            done := done || jsonb_build_object('subscriptions_forgotten', webhook.forget_subscriptions());
            update webhook.maintenance as m set due_at = clock_timestamp() + interval '10 minutes' where m.task = turn.task;
        end case;
        exception when others then
            done := jsonb_build_object('task', turn.task, 'failed', sqlerrm);
            update webhook.maintenance as m set due_at = clock_timestamp() + interval '1 minute' where m.task = turn.task;
        end;
        if exists (select from webhook.maintenance as m where m.due_at <= clock_timestamp()) then
            done := done || jsonb_build_object('more', true);
        end if;
    end loop;
    return done::text;
end
$$;
