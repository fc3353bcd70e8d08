-- Attempts that were recorded since the call before, for those who follow them live: a JSON object of "attempts" (an array, in the order
-- of their ends, at most `rows_max`), "more" (how many there were beyond them) and "cursor", to be given next time. With a null cursor: none,
-- from now on.
--
-- There is no index by time, since every attempt would pay for it. Attempts are only ever appended, so what is new is in the last
-- pages; and new is what the snapshot of the call before did not see, however long its transaction took. Those behind the end are looked
-- at again: workers fill pages of their own, and Postgres puts a small row into what a large one has left, mostly of the last 4,000
-- pages. A row that it puts further back, as it may after a purge, is missed.
create or replace function webhook.tail_attempts(
    cursor text, of_endpoint bigint default null, of_tenant text default null, of_outcome text default null,
    only_failed boolean default false, rows_max int default 1000
) returns text
language plpgsql stable  -- one snapshot for all of it: a row that comes between looking and noting the snapshot would be missed
set search_path = pg_catalog, pg_temp
set jit = off
as $$
declare
    look_back constant int := 4096;  -- pages
    late constant interval := '1 day';  -- between the start of an attempt and its record: the database may have been away
    before jsonb := cursor::jsonb;
    seen pg_snapshot := (before ->> 'snapshot')::pg_snapshot;
    ends bigint := pg_snapshot_xmax(pg_current_snapshot())::text::bigint;
    pages jsonb := '{}';
    child text;
    size bigint;
    part jsonb;
    found jsonb := '[]';
    n bigint := 0;
    counted bigint;
begin
    foreach child in array array(
        select distinct x.name from unnest(array[
            'attempt_' || to_char(now() at time zone 'UTC', 'IYYY"w"IW'), 'attempt_' || to_char((now() - late) at time zone 'UTC', 'IYYY"w"IW'),
            'attempt_default']) as x (name)
        where to_regclass('webhook.' || x.name) is not null
    ) loop
        size := pg_relation_size(('webhook.' || child)::regclass) / current_setting('block_size')::int;
        pages := pages || jsonb_build_object(child, size);
        continue when seen is null;
        execute format($sql$
            select count(*), coalesce(jsonb_agg(jsonb_build_object(
                'delivery_id', t.delivery_id, 'event_id', t.event_id, 'endpoint_id', t.endpoint_id, 'attempt', t.attempt,
                'started_at', t.started_at, 'duration_seconds', t.duration_seconds, 'outcome', t.outcome, 'status', t.status,
                'response', t.response, 'error', t.error, 'worker', t.worker)) filter (where t.nth <= $8), '[]')
            from (
                select a.*, row_number() over (order by a.started_at + make_interval(secs => a.duration_seconds)) as nth
                from webhook.%I as a
                where a.ctid >= $1 and a.started_at >= $2
                  and not pg_visible_in_snapshot(($3 - (($3 - a.xmin::text::bigint) & 4294967295))::text::xid8, $4)
                  and ($5 is null or a.endpoint_id = $5)
                  and ($6 is null or exists (select from webhook.endpoint as e where e.id = a.endpoint_id and e.tenant = $6))
                  and ($7 is null or a.outcome = $7)
                  and (not $9 or a.outcome <> 'ok')
            ) as t
        $sql$, child)
        into counted, part
        using format('(%s,0)', greatest(least(size, coalesce((before -> 'pages' ->> child)::bigint, 0)) - look_back, 0))::tid,
              now() - late, ends, seen, of_endpoint, of_tenant, of_outcome, rows_max, only_failed;
        found := found || part;
        n := n + counted;
    end loop;
    return jsonb_build_object('attempts', found, 'more', n - jsonb_array_length(found), 'cursor',
                              jsonb_build_object('snapshot', pg_current_snapshot()::text, 'pages', pages))::text;
end
$$;
