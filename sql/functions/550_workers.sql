-- Worker processes: what they say of themselves, and what an operator wants of them.

-- Seconds between a moment and now, by which something may be divided.
create or replace function webhook.seconds_since(moment timestamptz) returns double precision
language sql volatile
return greatest(extract(epoch from clock_timestamp() - moment)::float8, 0.001);

-- Writes down what a worker says of itself (host, pid, runtime, version, lanes, attempted, delivered, in_hand, draining), every few
-- seconds. Returns whether an operator has asked it to drain.
create or replace function webhook.report_worker(name text, report jsonb) returns boolean
language sql volatile
set search_path = pg_catalog, pg_temp
as $$
    insert into webhook.worker as w (name, host, pid, runtime, version, lanes, attempted, delivered, in_hand, draining)
    select report_worker.name, r.host, r.pid, r.runtime, r.version, r.lanes, r.attempted, r.delivered, r.in_hand, r.draining
    from jsonb_to_record(report) as r (
        host text, pid int, runtime text, version text, lanes int, attempted bigint, delivered bigint, in_hand int, draining boolean)
    on conflict (name) do update set
        seen_at = clock_timestamp(),
        attempted = excluded.attempted,
        delivered = excluded.delivered,
        attempted_per_second = greatest(excluded.attempted - w.attempted, 0) / webhook.seconds_since(w.seen_at),
        delivered_per_second = greatest(excluded.delivered - w.delivered, 0) / webhook.seconds_since(w.seen_at),
        lanes = excluded.lanes,
        in_hand = excluded.in_hand,
        draining = excluded.draining
    returning w.drain_asked_at is not null;
$$;

-- An orderly end: it is listed no more. One that dies is listed as silent for an hour, and then deleted by `maintain`.
create or replace function webhook.forget_worker(name text) returns void
language sql volatile
set search_path = pg_catalog, pg_temp
as $$ delete from webhook.worker as w where w.name = forget_worker.name; $$;

-- Asks one worker, or all there are (null), to drain; it hears so with its next report. Returns whom it asked: not those that
-- were asked before.
create or replace function webhook.drain_workers(name text, actor text default session_user, reason text default '')
returns setof text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if drain_workers.name is not null and not exists (select from webhook.worker as w where w.name = drain_workers.name) then
        raise exception 'webhook: there is no worker %', name
            using errcode = 'no_data_found', hint = '`webhook-worker workers list` names them.';
    end if;
    return query
        with asked as (
            update webhook.worker as w set drain_asked_at = clock_timestamp()
            where (drain_workers.name is null or w.name = drain_workers.name) and w.drain_asked_at is null
            returning w.name
        ), told as (
            insert into webhook.audit (actor, action, reason, details)
            select drain_workers.actor, 'worker.drain', drain_workers.reason, jsonb_build_object('worker', a.name)
            from asked as a order by a.name
        )
        select a.name from asked as a order by a.name;
end
$$;
