-- Drops what has outlived its retention: whole partitions, so that no row is deleted. Nothing unfinished goes: the events of
-- pending and in-flight deliveries are copied to event_kept first. Null keeps for ever.

-- The partition of `parent` that is past its retention for longest; null if there is none.
create or replace function webhook.outlived(parent text, keep interval, out child text, out starts timestamptz, out ends timestamptz)
returns record
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select w.child, w.starts, w.starts + interval '7 days'
    from (
        select c.relname::text as child,
               to_date(substr(c.relname, length(parent) + 2), 'IYYY"w"IW')::timestamp at time zone 'UTC' as starts
        from pg_inherits as h join pg_class as c on c.oid = h.inhrelid
        where h.inhparent = ('webhook.' || parent)::regclass and c.relname ~ ('^' || parent || '_[0-9]{4}w[0-9]{2}$')
    ) as w
    where w.starts + interval '7 days' < now() - keep
    order by w.starts limit 1;
end;

-- Events of [starts, ends) that a delivery still needs: pending, in flight, or yet to be made. One scan of `pending`.
create or replace function webhook.needed_events(starts timestamptz, ends timestamptz) returns setof bigint
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select p.event_id from webhook.pending as p where p.event_created_at >= starts and p.event_created_at < ends
    union select i.event_id from webhook.inflight as i where i.event_created_at >= starts and i.event_created_at < ends
    union select f.event_id from webhook.fan_out as f where f.event_created_at >= starts and f.event_created_at < ends;
end;

-- Copies events of [starts, ends) that a delivery still needs, at most `rows_max`, and about 64 MiB of payload. Returns how
-- many: 0 says that none is missing.
create or replace function webhook.keep_events(starts timestamptz, ends timestamptz, rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    bytes_max constant bigint := 64 * 1024 * 1024;
    kept int;
begin
    insert into webhook.event_kept (id, created_at, tenant, event_type, content_type, payload, operational, trace)
    select m.id, m.created_at, m.tenant, m.event_type, m.content_type, m.payload, m.operational, m.trace
    from (
        select b.*, sum(octet_length(b.payload)::bigint) over (order by b.id) - octet_length(b.payload) as bytes_before
        from (
            select e.* from webhook.event as e
            where e.created_at >= starts and e.created_at < ends
              and e.id in (select webhook.needed_events(starts, ends))
              and not exists (select from webhook.event_kept as k where k.id = e.id and k.created_at = e.created_at)
            limit rows_max
        ) as b
    ) as m
    where m.bytes_before < bytes_max;
    get diagnostics kept = row_count;
    return kept;
end
$$;

-- Drops one partition. Returns {"dropped": name}; {"kept": n} if there were events to copy first; or {"locked": name} if
-- somebody uses it. Postgres wants the parent for itself, too, and who writes to that waits while this waits: hence so short.
-- For events: an exclusive lock on that partition first, which readers do not notice but retry_delivery does, the only one who
-- makes an old event needed again. What it made so before is seen under the lock.
create or replace function webhook.drop_outlived(
    parent text, child text, starts timestamptz, ends timestamptz, rows_max int
) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kept int;
begin
    perform set_config('lock_timeout', '50ms', true);
    if parent = 'event' then
        execute format('lock table webhook.%I in exclusive mode nowait', child);
        kept := webhook.keep_events(starts, ends, rows_max);
        if kept > 0 then
            return jsonb_build_object('kept', kept);
        end if;
    end if;
    execute format('drop table webhook.%I', child);
    return jsonb_build_object('dropped', child);
exception when lock_not_available then
    return jsonb_build_object('locked', child);  -- the sub-transaction took everything back; another turn will come
end
$$;

-- Deletes old events that no other partition took, and keeps those that a delivery still needs. Returns how many went.
-- They are locked before it is asked who needs them: retry_delivery, which locks them too, is then either seen or waits.
create or replace function webhook.delete_stray_events(older_than timestamptz, rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    stray tid[];
begin
    select array_agg(o.ctid) into stray from (
        select e.ctid from webhook.event_default as e where e.created_at < older_than limit rows_max for update skip locked
    ) as o;
    insert into webhook.event_kept (id, created_at, tenant, event_type, content_type, payload, operational, trace)
    select e.id, e.created_at, e.tenant, e.event_type, e.content_type, e.payload, e.operational, e.trace
    from webhook.event_default as e
    where e.ctid = any (stray) and e.id in (select webhook.needed_events('-infinity', older_than))
    on conflict do nothing;
    delete from webhook.event_default as e where e.ctid = any (stray);
    return coalesce(cardinality(stray), 0);
end
$$;

-- One step: copies a batch, or drops one partition, or deletes a batch of old rows from a default partition. Returns what was
-- done, {} if nothing is left to do: {"kept": n}, {"dropped": name}, {"deleted": n}; and {"locked": name} of a partition that
-- is in use, which keeps no other from being dropped.
create or replace function webhook.retain(
    keep_events interval, keep_deliveries interval, keep_attempts interval, batch int default 5000
) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    old record;
    kept int;
    step jsonb;
    done jsonb := '{}';
    deleted int := 0;
begin
    for old in
        select t.parent, o.child, o.starts, o.ends
        from (values ('attempt', keep_attempts), ('finished', keep_deliveries), ('event', keep_events)) as t (parent, keep)
        cross join lateral webhook.outlived(t.parent, t.keep) as o
        where t.keep is not null and o.child is not null
    loop
        if old.parent = 'event' then  -- most of the copying is done before anything is locked
            kept := webhook.keep_events(old.starts, old.ends, batch);
            if kept > 0 then
                return done || jsonb_build_object('kept', kept);
            end if;
        end if;
        step := webhook.drop_outlived(old.parent, old.child, old.starts, old.ends, batch);
        done := done || step;
        if not step ? 'locked' then
            return done;
        end if;
    end loop;
    if exists (select from webhook.event_default as e where e.created_at < now() - keep_events) then
        deleted := webhook.delete_stray_events(now() - keep_events, batch);
    elsif exists (select from webhook.finished_default as f where f.finished_at < now() - keep_deliveries) then
        delete from webhook.finished_default as f where f.ctid = any (array(
            select o.ctid from webhook.finished_default as o
            where o.finished_at < now() - keep_deliveries limit batch for update skip locked));
        get diagnostics deleted = row_count;
    elsif exists (select from webhook.attempt_default as a where a.started_at < now() - keep_attempts) then
        delete from webhook.attempt_default as a where a.ctid = any (array(
            select o.ctid from webhook.attempt_default as o
            where o.started_at < now() - keep_attempts limit batch for update skip locked));
        get diagnostics deleted = row_count;
    end if;
    return case when deleted > 0 then done || jsonb_build_object('deleted', deleted) else done end;
end
$$;

-- Deletes kept events that no delivery needs any more, at most `batch`. Returns how many.
-- Locked before it is asked who needs them, as above. One that its partition still has is left: a drop that is under way may
-- count on it.
create or replace function webhook.forget_kept_events(keep interval, batch int default 5000) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    unneeded tid[];
    deleted int;
begin
    if keep is null or not exists (select from webhook.event_kept) then
        return 0;
    end if;
    select array_agg(o.ctid) into unneeded from (
        select k.ctid from webhook.event_kept as k
        where k.created_at < now() - keep
          and k.id not in (select webhook.needed_events('-infinity', now() - keep))
          and not exists (select from webhook.event as e where e.id = k.id and e.created_at = k.created_at)
        limit batch for update of k skip locked
    ) as o;
    delete from webhook.event_kept as k
    where k.ctid = any (unneeded) and k.id not in (select webhook.needed_events('-infinity', now() - keep));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
