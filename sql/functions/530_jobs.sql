-- Jobs: what operators do to many deliveries at once, paced, by whichever worker keeps house.
--
-- A step takes the next few that match, in order of ids, does to them what is to be done, and moves the job's cursor on, all in one
-- transaction: whoever dies in the middle of it has done nothing, and no delivery is met twice. It takes them three seconds ahead, and
-- gives each its own moment (GCRA, as for planned sends: `planned_until` is the TAT): so the rate is kept to the delivery, whoever
-- takes the steps and however seldom, and what was missed while nobody took any is not made up for.
--
-- A step holds the rows of its endpoints until it is over, and recording waits for them: so it is about few of them, and does not wait
-- long for one that somebody else has.

-- Refuses what makes no sense, with the reason.
create or replace function webhook.check_job(action text, filters jsonb, force boolean) returns void
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    of_state text := filters ->> 'state';
    unknown text;
begin
    select string_agg(k, ', ') into unknown from jsonb_object_keys(filters) as k where k not in (
        'state', 'endpoint_id', 'tenant', 'event_type', 'created_since', 'created_before', 'last_error', 'last_status');
    if unknown is not null then
        raise exception 'webhook: deliveries are not filtered by %', unknown using errcode = 'invalid_parameter_value',
            hint = 'There are state, endpoint_id, tenant, event_type, created_since, created_before, last_error, last_status.';
    elsif action = 'retry' and coalesce(of_state not in ('dead', 'cancelled', 'pending', 'held', 'delivered'), true) then
        raise exception 'webhook: a job retries what is dead, cancelled, pending, held, or by force delivered: one of them'
            using errcode = 'invalid_parameter_value', hint = 'Give the state; in-flight deliveries are retried one by one, by id.';
    elsif action = 'retry' and of_state = 'delivered' and not force then
        raise exception 'webhook: these are delivered'
            using errcode = 'invalid_parameter_value', hint = 'Force it (--force) if their receivers may get them once more.';
    elsif action <> 'retry' and of_state not in ('pending', 'held') then
        raise exception 'webhook: only what is pending or held can be %', case action
            when 'cancel' then 'cancelled' when 'hold' then 'held' else 'released' end
            using errcode = 'invalid_parameter_value', hint = 'What is in flight is with a worker, and all else has ended.';
    end if;
end
$$;

-- Creates a job: filters as in 520_matching.sql, `rate` in deliveries a second (null: as fast as it goes), `before_id` the first id
-- that is not meant. It is about what matches now: what is made or ends later is left alone. Returns its id.
create or replace function webhook.create_job(
    action text, filters jsonb, rate double precision default null, force boolean default false, rows_max bigint default null,
    before_id bigint default null, actor text default session_user, reason text default ''
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    new_id bigint;
begin
    insert into webhook.job (action, filters, forced, rate, rows_max, actor, reason, last_id, total, cursor)
    select create_job.action, filters, force, create_job.rate, create_job.rows_max, create_job.actor, create_job.reason,
           least(s.last_value, before_id - 1), least(create_job.rows_max, p.matching), coalesce(p.sample[1] - 1, 0)
    from webhook.delivery_id as s, webhook.preview_job(create_job.action, filters, force, before_id, 1) as p
    returning id into new_id;
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'job.create', (filters ->> 'endpoint_id')::bigint, reason, jsonb_build_object(
        'job', new_id, 'action', create_job.action, 'filters', filters, 'rate', rate, 'forced', force));
    update webhook.maintenance as m set due_at = clock_timestamp() where m.task = 'jobs';
    return new_id;
end
$$;

-- What a job would be about: how many deliveries, and the first few of them, in the order in which it takes them.
create or replace function webhook.preview_job(
    action text, filters jsonb, force boolean default false, before_id bigint default null, sample_max int default 5,
    out matching bigint, out sample bigint[]
) returns record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    source text := webhook.job_source(action, filters ->> 'state');
    narrowed jsonb := webhook.job_filters(action, filters);
    id_end bigint := coalesce(before_id, 9223372036854775807);
begin
    perform webhook.check_job(action, filters, force);
    execute format('select count(*) from webhook.%I($1) as m where m.id < $2', source) into matching using narrowed, id_end;
    execute format('select array(select m.id from webhook.%I($1) as m where m.id < $2 order by m.id limit $3)', source)
    into sample using narrowed, id_end, sample_max;
end
$$;

-- Where a job finds its deliveries.
create or replace function webhook.job_source(action text, of_state text) returns text
language sql immutable
return case when action = 'retry' and of_state in ('dead', 'cancelled', 'delivered') then 'matching_finished' else 'matching_pending' end;

-- The filters of a job: who holds means what is not held yet by hand, and who releases what is.
create or replace function webhook.job_filters(action text, filters jsonb) returns jsonb
language sql immutable
return filters || case action when 'hold' then '{"set_aside": false}' when 'release' then '{"set_aside": true}' else '{}' end::jsonb;

-- The next deliveries that a job is about, in order of ids: at most `room`, of at most 60 endpoints, and of the next 50,000 candidates, so
-- that it is over in a moment however few of them match. `up_to`: the last id that was looked at.
create or replace function webhook.job_batch(job webhook.job, room bigint, out ids bigint[], out owners bigint[], out up_to bigint)
returns record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    source text := webhook.job_source(job.action, job.filters ->> 'state');
    looks_max constant int := 50000;
    endpoints_max constant int := 60;  -- each gets a subtransaction, and beyond 64 all who meet its rows pay for them
    whole boolean;
begin
    if source = 'matching_finished' then
        execute format('select f.id from webhook.finished as f where f.state = %L and f.id > $1 and f.id <= $2 '
                       'order by f.id offset $3 - 1 limit 1', job.filters ->> 'state')
        into up_to using job.cursor, job.last_id, looks_max;
    else
        select p.id into up_to from webhook.pending as p where p.id > job.cursor and p.id <= job.last_id
        order by p.id offset looks_max - 1 limit 1;
    end if;
    up_to := coalesce(up_to, job.last_id);
    -- Planned for these very values, so that filters which are not given cost nothing.
    execute format(
        'select array_agg(m.id order by m.id), array_agg(m.endpoint_id order by m.id) from ('
        'select s.id, s.endpoint_id from webhook.%I($1) as s where s.id > $2 and s.id <= $3 %s order by s.id limit $5) as m',
        source, case source when 'matching_finished' then 'and s.finished_at < $4' else 'and $4 is not null' end)
    into ids, owners using webhook.job_filters(job.action, job.filters), job.cursor, up_to, job.created_at, room;
    whole := coalesce(cardinality(ids) < room, true);
    select array_agg(d.id order by d.nth) filter (where d.fits), array_agg(d.endpoint_id order by d.nth) filter (where d.fits),
           whole and coalesce(bool_and(d.fits), true)
    into ids, owners, whole
    from (
        select w.*, count(*) filter (where w.is_new) over (order by w.nth) <= endpoints_max as fits
        from (
            select u.*, row_number() over (partition by u.endpoint_id order by u.nth) = 1 as is_new
            from unnest(ids, owners) with ordinality as u (id, endpoint_id, nth)
        ) as w
    ) as d;
    if not whole then
        up_to := ids[cardinality(ids)];
    end if;
end
$$;

-- A step of the running job that has waited longest for one. Says what was done, and when the next step is due, of whichever job.
create or replace function webhook.job_step(out done jsonb, out due_at timestamptz) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
#variable_conflict use_column
declare
    ahead constant interval := '3 s';
    rest constant interval := '0.5 s';  -- what a step takes is at least so much of its rate
    rows_max constant int := 2000;  -- of a step
    put_off constant interval := '2 s';  -- where somebody else has what it needs
    changed_meanwhile constant text := 'it changed meanwhile';
    started timestamptz := clock_timestamp();
    job webhook.job;
    batch record;
    first_at timestamptz;
    part record;
    step record;
    because text;
    left_out bigint[];
    missing bigint;
    moved bigint := 0;
    ends boolean;
begin
    done := '{}';
    select j.* into job from webhook.job as j
    where j.state = 'running' and (j.rate is null or j.planned_until < started + ahead - rest)
    order by j.stepped_at nulls first, j.id limit 1 for update skip locked;
    if not found then
        select coalesce(min(greatest(started + rest, j.planned_until - ahead + rest)), 'infinity') into due_at
        from webhook.job as j where j.state = 'running';
        return;
    end if;
    first_at := greatest(started, job.planned_until);
    batch := webhook.job_batch(job, least(
        rows_max, ceil(extract(epoch from started + ahead - first_at) * job.rate), job.rows_max - job.done - job.skipped)::bigint);
    begin
        for part in
            select d.endpoint_id, array_agg(d.id order by d.nth) as ids, array_agg(m.due order by d.nth) as moments
            from unnest(batch.ids, batch.owners) with ordinality as d (id, endpoint_id, nth)
            cross join lateral (select first_at + coalesce(make_interval(secs => (d.nth - 1) / job.rate), '0') as due) as m
            group by d.endpoint_id order by d.endpoint_id
        loop
            begin
                because := null;
                step := webhook.change_deliveries(job.action, part.endpoint_id, part.ids, part.moments, job.forced,
                                                  job.filters ->> 'state', job.created_at, job.actor, job.reason);
            exception when others then  -- what is wrong with these rows is wrong with them later, too; all else is for another turn
                if left(sqlstate, 2) not in ('22', '23', 'P0') then
                    raise;
                end if;
                because := sqlerrm;
                select '{}'::bigint[] as changed, '{}'::text[] as states into step;
            end;
            insert into webhook.audit (actor, login, action, endpoint_id, delivery_id, reason, details)
            select job.actor, job.login, 'delivery.' || job.action, part.endpoint_id, c.id, job.reason,
                   jsonb_build_object('job', job.id, 'state_before', c.state, 'forced', job.forced)
                   || case when job.action in ('retry', 'release') then jsonb_build_object('planned_at', w.due) else '{}' end
            from unnest(step.changed, step.states) as c (id, state) left join unnest(part.ids, part.moments) as w (id, due) using (id);
            moved := moved + cardinality(step.changed);
            left_out := array(select p.id from unnest(part.ids) as p (id) where p.id <> all (step.changed));
            if left_out <> '{}' then
                job.skipped := job.skipped + cardinality(left_out);
                select job.skipped_because || jsonb_object_agg(w.why, coalesce((job.skipped_because ->> w.why)::bigint, 0) + w.n)
                into job.skipped_because from (
                    select coalesce(because, case
                               when exists (select from webhook.finished as f where f.id = l.id and f.finished_at < job.created_at)
                               then 'its event is gone' else changed_meanwhile end) as why, count(*) as n
                    from unnest(left_out) as l (id) group by 1
                ) as w;
            end if;
        end loop;
    exception when lock_not_available or deadlock_detected then  -- all of it is undone, and other jobs go first
        update webhook.job as j set stepped_at = started where j.id = job.id;
        done := jsonb_build_object('job', job.id, 'job_waits', sqlerrm);
        due_at := clock_timestamp() + put_off;
        return;
    end;
    job.cursor := batch.up_to;
    job.done := job.done + moved;
    ends := job.cursor >= job.last_id or coalesce(job.done + job.skipped >= job.rows_max, false);
    missing := job.total - job.done - job.skipped;
    if ends and missing > 0 then  -- in flight, say, when it was their turn
        job.skipped := job.skipped + missing;
        job.skipped_because := job.skipped_because || jsonb_build_object(
            changed_meanwhile, coalesce((job.skipped_because ->> changed_meanwhile)::bigint, 0) + missing);
    end if;
    update webhook.job as j set
        cursor = job.cursor, done = job.done, skipped = job.skipped, skipped_because = job.skipped_because,
        planned_until = coalesce(first_at + make_interval(secs => cardinality(batch.ids) / job.rate), j.planned_until),
        stepped_at = started,
        state = case when ends then 'done' else 'running' end,
        finished_at = case when ends then clock_timestamp() end
    where j.id = job.id;
    done := jsonb_build_object('job', job.id, 'action', job.action, 'moved', moved)
        || case when ends then jsonb_build_object('job_done', job.done, 'job_skipped', job.skipped) else '{}' end;
    -- Another job, or the rest of this one: the next step sees. What goes as fast as it can leaves others half of the time.
    due_at := case when job.rate is null and not ends then clock_timestamp() + (clock_timestamp() - started) else started end;
end
$$;

-- Pauses, resumes or cancels a job; what it has done stays done, and what it has planned goes on for three seconds.
create or replace function webhook.set_job_state(job_id bigint, verb text, actor text, reason text) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    before text;
begin
    select j.state into before from webhook.job as j where j.id = job_id for update;
    if before is null then
        raise exception 'webhook: there is no job %', job_id using errcode = 'no_data_found';
    elsif before in ('done', 'cancelled') then
        raise exception 'webhook: job % is %', job_id, before
            using errcode = 'object_not_in_prerequisite_state', hint = 'It has ended: begin another.';
    end if;
    update webhook.job as j set
        state = case verb when 'pause' then 'paused' when 'resume' then 'running' else 'cancelled' end,
        finished_at = case when verb = 'cancel' then clock_timestamp() end,
        planned_until = case when verb = 'resume' then least(j.planned_until, clock_timestamp() + interval '3 s')  -- a clock was set back
                             else j.planned_until end
    where j.id = job_id;
    insert into webhook.audit (actor, action, reason, details)
    values (actor, 'job.' || verb, reason, jsonb_build_object('job', job_id, 'state_before', before));
    update webhook.maintenance as m set due_at = clock_timestamp() where m.task = 'jobs' and verb = 'resume';
end
$$;

create or replace function webhook.pause_job(job_id bigint, actor text default session_user, reason text default '') returns void
language sql
return webhook.set_job_state(job_id, 'pause', actor, reason);

create or replace function webhook.resume_job(job_id bigint, actor text default session_user, reason text default '') returns void
language sql
return webhook.set_job_state(job_id, 'resume', actor, reason);

create or replace function webhook.cancel_job(job_id bigint, actor text default session_user, reason text default '') returns void
language sql
return webhook.set_job_state(job_id, 'cancel', actor, reason);
