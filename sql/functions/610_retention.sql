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

-- Copies events of [starts, ends) that a delivery still needs, at most `rows_max`. Returns how many. One scan of `pending`.
create or replace function webhook.keep_events(starts timestamptz, ends timestamptz, rows_max int) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    kept int;
begin
    insert into webhook.event_kept (id, created_at, tenant, event_type, content_type, payload, operational)
    select e.id, e.created_at, e.tenant, e.event_type, e.content_type, e.payload, e.operational
    from webhook.event as e
    where e.created_at >= starts and e.created_at < ends
      and e.id in (
          select p.event_id from webhook.pending as p where p.event_created_at >= starts and p.event_created_at < ends
          union select i.event_id from webhook.inflight as i where i.event_created_at >= starts and i.event_created_at < ends
          union select f.event_id from webhook.fan_out as f where f.event_created_at >= starts and f.event_created_at < ends
      )
      and not exists (select from webhook.event_kept as k where k.id = e.id and k.created_at = e.created_at)
    limit rows_max;
    get diagnostics kept = row_count;
    return kept;
end
$$;

-- Drops one partition, if nobody uses it for as long as half a second. Returns whether it is gone.
-- For events: an exclusive lock on that partition first, which readers do not notice but retry_delivery does, the only one who
-- makes an old event needed again; what it made so before is copied under the lock.
create or replace function webhook.drop_outlived(parent text, child text, starts timestamptz, ends timestamptz) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform set_config('lock_timeout', '500ms', true);
    if parent = 'event' then
        execute format('lock table webhook.%I in exclusive mode nowait', child);
        perform webhook.keep_events(starts, ends, 1000000);
    end if;
    execute format('drop table webhook.%I', child);
    return true;
exception when lock_not_available then
    return false;  -- the sub-transaction took everything back; another turn will come
end
$$;

-- One step: copies a batch, or drops one partition, or deletes a batch of old rows from a default partition. Returns what was
-- done, {} if nothing is left to do: {"kept": n}, {"dropped": name}, {"locked": name}, {"deleted": n}.
create or replace function webhook.retain(
    keep_events interval, keep_deliveries interval, keep_attempts interval, batch int default 20000
) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    old record;
    kept int;
    deleted int;
begin
    for old in
        select t.parent, o.child, o.starts, o.ends
        from (values ('attempt', keep_attempts), ('finished', keep_deliveries), ('event', keep_events)) as t (parent, keep)
        cross join lateral webhook.outlived(t.parent, t.keep) as o
        where t.keep is not null and o.child is not null
    loop
        if old.parent = 'event' then
            kept := webhook.keep_events(old.starts, old.ends, batch);
            if kept = batch then
                return jsonb_build_object('kept', kept);
            end if;
        end if;
        if webhook.drop_outlived(old.parent, old.child, old.starts, old.ends) then
            return jsonb_build_object('dropped', old.child);
        end if;
        return jsonb_build_object('locked', old.child);
    end loop;
    if exists (select from webhook.event_default as e where e.created_at < now() - keep_events) then
        kept := webhook.keep_events('-infinity', now() - keep_events, batch);
        if kept = batch then
            return jsonb_build_object('kept', kept);
        end if;
        delete from webhook.event_default as e where e.ctid = any (array(
            select o.ctid from webhook.event_default as o where o.created_at < now() - keep_events limit batch for update skip locked));
        get diagnostics deleted = row_count;
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
    return case when deleted > 0 then jsonb_build_object('deleted', deleted) else '{}' end;
end
$$;

-- Deletes kept events that no delivery needs any more, at most `batch`. Returns how many.
create or replace function webhook.forget_kept_events(keep interval, batch int default 20000) returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    deleted int;
begin
    if keep is null or not exists (select from webhook.event_kept) then
        return 0;
    end if;
    delete from webhook.event_kept as k where k.ctid = any (array(
        select o.ctid from webhook.event_kept as o
        where o.created_at < now() - keep
          and not exists (select from webhook.pending as p where p.event_id = o.id)
          and not exists (select from webhook.inflight as i where i.event_id = o.id)
          and not exists (select from webhook.fan_out as f where f.event_id = o.id)
        limit batch for update skip locked));
    get diagnostics deleted = row_count;
    return deleted;
end
$$;
