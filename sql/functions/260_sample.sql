-- What the queue looks like just now, for workers' metrics and status: a JSON text.
--
-- What it reads has a bound, whatever there is. Of pending, inflight and endpoint_sched it reads `pages_max` pages, and scales up what it
-- found there: exact while a table is no larger. Dead deliveries are counted up to `rows_max`. The oldest due delivery is looked for at
-- the first `endpoints_max` of the run queue and of the timers that have fired, from the floors on, so not over dead rows.
--
--   deliveries                     pending, held, in_flight, dead: how many
--   endpoints                      [state, circuit, how many] of each combination that there is
--   oldest_due_seconds             how long the oldest delivery has been due that nothing holds back: no limit, no circuit, no Retry-After
--   dead_rows                      of each hot table, as Postgres counts them itself
--   oldest_snapshot_seconds        how long the oldest transaction has run that keeps dead rows from being removed
--   oldest_snapshot_transactions   how many transactions have begun since the oldest snapshot, a standby's or a slot's included
--
-- Who owns it must be in pg_read_all_stats to see other roles' transactions (deploy/postgres/roles.sql).
create or replace function webhook.sample_queue(pages_max int default 200, rows_max int default 10000, endpoints_max int default 500)
returns text
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    page constant float8 := current_setting('block_size');
    of_pending float8 := least(100, 100 * pages_max * page / greatest(pg_relation_size('webhook.pending'), 1));
    of_inflight float8 := least(100, 100 * pages_max * page / greatest(pg_relation_size('webhook.inflight'), 1));
    of_sched float8 := least(100, 100 * pages_max * page / greatest(pg_relation_size('webhook.endpoint_sched'), 1));
    floors webhook.sched_floor;
    deliveries json;
    endpoints json;
    oldest_due float8;
    dead_rows json;
    snapshot record;
begin
    select json_build_object(
        'pending', round(coalesce(sum(w.n) filter (where s.state = 'enabled'), 0) * 100 / of_pending),
        'held', round(coalesce(sum(case s.state when 'enabled' then 0 else w.n end + w.aside), 0) * 100 / of_pending),
        'in_flight', (select round(count(*) * 100 / of_inflight) from webhook.inflight tablesample system (of_inflight)),
        'dead', (select count(*) from (select from webhook.finished as f where f.state = 'dead' limit rows_max) as bounded))
    into deliveries
    from (
        select p.endpoint_id, count(*) filter (where p.run_at < 'infinity') as n, count(*) filter (where p.run_at = 'infinity') as aside
        from webhook.pending as p tablesample system (of_pending) group by p.endpoint_id
    ) as w cross join lateral (
        select s.state from webhook.endpoint_sched as s where s.endpoint_id = w.endpoint_id order by s.version desc limit 1
    ) as s;

    select coalesce(json_agg(json_build_array(s.state, s.circuit, round(s.n * 100 / of_sched))), '[]') into endpoints
    from (
        select s.state, s.circuit, count(*) as n from webhook.endpoint_sched as s tablesample system (of_sched) group by s.state, s.circuit
    ) as s;

    select f.* into floors from webhook.sched_floor as f;
    select extract(epoch from clock_timestamp() - least(
        (
            select min(greatest(p.run_at, s.ready_at)) from (
                (
                    select s.endpoint_id, s.head, webhook.ready_at(
                               s.not_before, s.tat, webhook.rate_at(s.rate, s.recovering_since, clock_timestamp()), s.burst) as ready_at
                    from webhook.endpoint_sched as s where s.turn >= floors.turn order by s.turn limit endpoints_max
                ) union all (
                    select s.endpoint_id, s.head, greatest(s.next_at, webhook.ready_at(
                               s.not_before, s.tat, webhook.rate_at(s.rate, s.recovering_since, clock_timestamp()), s.burst)) as ready_at
                    from webhook.endpoint_sched as s where s.next_at >= floors.next_at and s.next_at <= clock_timestamp()
                    order by s.next_at limit endpoints_max
                )
            ) as s cross join lateral (
                select q.run_at from webhook.pending as q
                where q.endpoint_id = s.endpoint_id and q.run_at >= s.head order by q.run_at limit 1
            ) as p
            where p.run_at < 'infinity'
        ),
        (select min(w.run_at) from (select w.run_at from webhook.wake as w limit rows_max) as w)  -- not even noticed yet
    )) into oldest_due;

    select json_object_agg(t.name, t.n) into dead_rows from (
        select t.name, sum(pg_stat_get_dead_tuples(('webhook.' || t.child)::regclass)) as n
        from (values ('pending', 'pending'), ('inflight', 'inflight'), ('endpoint_sched', 'endpoint_sched'), ('claim_batch', 'claim_batch'),
                     ('wake', 'wake_0'), ('wake', 'wake_1'), ('wake', 'wake_2')) as t (name, child)
        group by t.name
    ) as t;

    select coalesce(max(extract(epoch from clock_timestamp() - h.since)), 0) as seconds, coalesce(max(h.transactions), 0) as transactions
    into snapshot
    from (
        select a.xact_start as since, greatest(age(a.backend_xmin), age(a.backend_xid)) as transactions
        from pg_stat_activity as a
        where (a.backend_xmin is not null or a.backend_xid is not null) and a.pid <> pg_backend_pid()
          and ((a.backend_type = 'client backend' and a.datname = current_database()) or a.backend_type = 'walsender')
        union all
        select x.prepared, age(x.transaction) from pg_prepared_xacts as x where x.database = current_database()
        union all
        select null, age(s.xmin) from pg_replication_slots as s where s.xmin is not null
    ) as h;

    return json_build_object(
        'deliveries', deliveries, 'endpoints', endpoints, 'oldest_due_seconds', greatest(oldest_due, 0), 'dead_rows', dead_rows,
        'oldest_snapshot_seconds', snapshot.seconds, 'oldest_snapshot_transactions', snapshot.transactions);
end
$$;
