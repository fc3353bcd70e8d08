-- What keeps claims quick while a snapshot held open elsewhere keeps every dead row alive.

-- Raises the floors from which claims read the run queue and the timers, to what the last call found: whatever was written
-- by a transaction that has been open since then is above it. Looks at everything, so that a row below a floor, if there
-- ever were one, is found by the next call. Returns how long to wait until then: the longer this took, the longer.
create or replace function webhook.raise_floor() returns interval
language plpgsql
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
    started timestamptz := clock_timestamp();
    least_turn float8;
    least_at timestamptz;
begin
    select s.turn into least_turn from webhook.endpoint_sched as s where s.turn is not null order by s.turn limit 1;
    select coalesce(min(n.next_at), started) into least_at from (
        select s.next_at from webhook.endpoint_sched as s where s.next_at < 'infinity' order by s.next_at limit 1) as n;
    update webhook.sched_floor as f set
        turn = coalesce(least(f.seen_turn, least_turn), f.turn),
        next_at = least(f.seen_next_at, least_at),
        seen_turn = least_turn,
        seen_next_at = least(least_at, started - interval '1 s');
    return greatest(interval '5 s', 20 * (clock_timestamp() - started));
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
