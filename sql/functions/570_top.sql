-- What `webhook-worker top` asks every second or two, whatever there is: the rows read are bounded, and found by indexes.

-- The backlog: of up to 200 pages, from all over the table, and scaled up where there are more. (What Postgres itself keeps count of is
-- gone after a crash or a failover.)
create or replace function webhook.look_at_backlog(out backlog bigint, out is_estimate boolean) returns record
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
    pages_max constant int := 200;
    percent float8 := least(100, 100 * pages_max * current_setting('block_size')::float8
                                 / greatest(pg_relation_size('webhook.pending'::regclass), 1));
begin
    is_estimate := percent < 100;
    select round(count(*) * 100 / percent) into backlog from webhook.pending tablesample system (percent);
end
$$;

-- Of up to `endpoints_max` of those first in the run queue, and as many whose timers fire first: how many of their deliveries wait, up
-- to `rows_max`, and for how long the oldest has been due. The worst `shown` of them, and those of `besides`, as an array of JSON.
create or replace function webhook.look_at_endpoints(endpoints_max int, rows_max int, shown int, besides bigint[]) returns jsonb
language sql stable
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
    with floor as materialized (
        select f.turn, f.next_at from webhook.sched_floor as f
    ), candidate as materialized (
        (select s.endpoint_id, s.head from webhook.endpoint_sched as s
         where s.turn is not null and s.turn >= (select f.turn from floor as f) order by s.turn limit endpoints_max)
        union all
        (select s.endpoint_id, s.head from webhook.endpoint_sched as s
         where s.next_at < 'infinity' and s.next_at >= (select f.next_at from floor as f) order by s.next_at limit endpoints_max)
    ), aged as materialized (
        select c.endpoint_id, p.run_at
        from candidate as c cross join lateral (
            select q.run_at from webhook.pending as q
            where q.endpoint_id = c.endpoint_id and q.run_at >= c.head order by q.run_at limit 1
        ) as p
        where p.run_at <= clock_timestamp()
    ), chosen as (
        (select a.endpoint_id from aged as a order by a.run_at limit shown)
        union
        select b.endpoint_id from unnest(besides) as b (endpoint_id)
    )
    select jsonb_build_object(
        'oldest_due_seconds', (select extract(epoch from clock_timestamp() - min(a.run_at))::float8 from aged as a),
        'endpoints', coalesce((
            select jsonb_agg(jsonb_build_object(
                'id', e.id, 'tenant', e.tenant, 'url', e.url, 'state', s.state, 'circuit', s.circuit,
                'backlog', least(w.n, rows_max), 'backlog_is_at_least', w.n > rows_max,
                'oldest_due_seconds', case when w.oldest <= clock_timestamp() then extract(epoch from clock_timestamp() - w.oldest)::float8 end,
                'in_flight', s.in_flight, 'failures', s.failures, 'failing_since', s.failing_since
            ) order by w.oldest, e.id)
            from chosen as c join webhook.endpoint as e on e.id = c.endpoint_id
            cross join lateral (
                select v.* from webhook.endpoint_sched as v where v.endpoint_id = e.id order by v.version desc limit 1
            ) as s
            cross join lateral (
                select count(*) as n, min(q.run_at) as oldest from (
                    select q.run_at from webhook.pending as q
                    where q.endpoint_id = e.id and q.run_at >= s.head order by q.run_at limit rows_max + 1
                ) as q
            ) as w
        ), '[]'))
$$;
