-- What keeps claims quick while a snapshot held open elsewhere keeps every dead row alive.

-- Raises the floors from which claims read the run queue and the timers. Exact: no row is ever below them. In three calls:
-- the first finds what is least now, and publishes it as `ahead_…`; what is written by whoever reads that is no smaller (timers are
-- never set to the past, turns not before `ahead_turn`). The second notes who is under way, since they may not have read it,
-- as `under_way`. When all of these have ended, the third makes it the floor, or what is least by then. Each call does the three
-- for three values. Whoever writes the schedule locks the table before it reads the floors or the clock, which is how they are seen.
--
-- Now and then all is looked at, as a net, and if the clock was set back. Returns how long to wait until the next call.
create or replace function webhook.raise_floor() returns interval
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set enable_bitmapscan = off
set jit = off
as $$
declare
    started timestamptz := clock_timestamp();
    known webhook.sched_floor;
    waits boolean;
    all_of_it boolean;
    at_work text[];
    least_turn float8;
    least_at timestamptz;
begin
    select * into known from webhook.sched_floor for update;
    at_work := array(
        select l.virtualtransaction from pg_locks as l
        where l.locktype = 'relation' and l.relation = 'webhook.endpoint_sched'::regclass
          and l.database = (select d.oid from pg_database as d where d.datname = current_database())
          and l.mode in ('RowShareLock', 'RowExclusiveLock') and l.pid is distinct from pg_backend_pid());
    all_of_it := started >= known.look_at_all_at or started < known.ahead_next_at;
    waits := at_work && known.under_way;
    if waits and not all_of_it then
        return interval '0.5 s';
    end if;
    select s.turn into least_turn from webhook.endpoint_sched as s
    where s.turn >= case when all_of_it then '-infinity' else known.turn end order by s.turn limit 1;
    select s.next_at into least_at from webhook.endpoint_sched as s
    where s.next_at < 'infinity' and s.next_at >= case when all_of_it then '-infinity' else known.next_at end order by s.next_at limit 1;
    update webhook.sched_floor as f set
        turn = least(case when waits then f.turn else coalesce(f.seen_turn, f.turn) end, least_turn),
        next_at = least(case when waits then f.next_at else f.seen_next_at end, least_at, started),
        seen_turn = f.ahead_turn,
        seen_next_at = least(f.ahead_next_at, started),
        ahead_turn = greatest(f.ahead_turn, least_turn),
        ahead_next_at = started,
        under_way = at_work,
        look_at_all_at = case when all_of_it then started + greatest(interval '1 minute', 200 * (clock_timestamp() - started))
                         else f.look_at_all_at end;
    return interval '1 s';
end
$$;

-- Empties those of the three tables of `wake` that have grown and hold nothing alive. One that somebody uses is left for
-- the next turn: nobody waits. Returns the number of tables emptied.
create or replace function webhook.empty_wake() returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    bytes_min constant int := 256 * 1024;
    child text;
    filled boolean;
    emptied int := 0;
begin
    foreach child in array array['wake_0', 'wake_1', 'wake_2'] loop
        continue when pg_relation_size(('webhook.' || child)::regclass) < bytes_min;
        begin
            execute format('lock table webhook.%I in access exclusive mode nowait', child);
            execute format('select exists (select from webhook.%I)', child) into filled;
            if not filled then
                execute format('truncate webhook.%I', child);
                emptied := emptied + 1;
            end if;
        exception when lock_not_available then
            null;
        end;
    end loop;
    return emptied;
end
$$;
