-- Roles with the least rights. As a superuser, after each `webhook-worker migrate up`, as often as you like:
--
--   psql "$DATABASE_URL" -v ON_ERROR_STOP=1 -f deploy/postgres/roles.sql
--   create role shop login password '…' in role webhook_producer;
--
--   webhook_owner     owns everything, and cannot log in
--   webhook_producer  may enqueue, and nothing else: it reads no table and no view
--   webhook_worker    may claim and record; it changes no payload, no endpoint, and reads no table but `meta`
--   webhook_operator  reads everything but keys that are sealed, and changes what the audited functions change
--   webhook_reader    reads the views, without the values of custom headers
--
-- What the owner owns already is left alone; the first time, every table is locked for a moment. From then on whoever migrates is a
-- superuser, or in webhook_owner.
--
-- Functions run with the owner's rights and a fixed search_path. A worker or an operator sees payloads: they deliver them, and look
-- after them. Rights that were granted otherwise to these roles are taken back.
begin;
set local lock_timeout = '2s';  -- what is in use is waited for no longer than this: then run it again

do $$
declare
    name text;
    thing record;
begin
    foreach name in array array['webhook_owner', 'webhook_producer', 'webhook_worker', 'webhook_operator', 'webhook_reader'] loop
        if not exists (select from pg_roles as r where r.rolname = name) then
            execute format('create role %I nologin', name);
        end if;
    end loop;
    for thing in
        select case c.relkind when 'v' then 'view' when 'S' then 'sequence' else 'table' end as kind, c.oid::regclass::text as it
        from pg_class as c
        where c.relnamespace = 'webhook'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
          and c.relowner <> 'webhook_owner'::regrole
          and not exists (select from pg_depend as d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'i'
                          and c.relkind = 'S')  -- an identity's sequence goes with its table
        union all
        select 'function', p.oid::regprocedure::text from pg_proc as p
        where p.pronamespace = 'webhook'::regnamespace and p.proowner <> 'webhook_owner'::regrole
        union all
        select 'type', t.oid::regtype::text from pg_type as t join pg_class as c on c.oid = t.typrelid
        where t.typnamespace = 'webhook'::regnamespace and c.relkind = 'c' and t.typowner <> 'webhook_owner'::regrole
    loop
        execute format('alter %s %s owner to webhook_owner', thing.kind, thing.it);
    end loop;
    execute 'alter schema webhook owner to webhook_owner';
end
$$;

revoke all on schema webhook from public, webhook_producer, webhook_worker, webhook_operator, webhook_reader;
revoke all on all tables in schema webhook from public, webhook_producer, webhook_worker, webhook_operator, webhook_reader;
revoke all on all sequences in schema webhook from public, webhook_producer, webhook_worker, webhook_operator, webhook_reader;
revoke all on all functions in schema webhook from public, webhook_producer, webhook_worker, webhook_operator, webhook_reader;
alter default privileges for role webhook_owner revoke execute on functions from public;

grant usage on schema webhook to webhook_producer, webhook_worker, webhook_operator, webhook_reader;

do $$
declare
    may constant jsonb := '{
        "webhook_producer": ["enqueue", "enqueue_many"],
        "webhook_worker": ["claim", "record", "extend", "plan_again", "withhold_endpoint", "has_due", "reap", "maintain", "sample_queue",
            "report_worker", "forget_worker"],
        "webhook_operator": [
            "enqueue", "create_endpoint", "next_endpoint_id", "create_endpoint_with_keys", "set_endpoint", "pause_endpoint",
            "resume_endpoint", "disable_endpoint", "enable_endpoint", "rotate_key", "begin_endpoint_test", "keys_to_seal", "reseal_keys",
            "set_tenant", "retry_delivery", "cancel_delivery", "hold_delivery", "release_delivery",
            "matching_pending", "matching_inflight", "matching_finished",
            "drain_workers", "tail_attempts", "look_at_backlog", "look_at_endpoints",
            "preview_job", "create_job", "pause_job", "resume_job", "cancel_job", "begin_purge", "purge_fan_out", "purge_events", "purge_endpoint", "purge_answers"]
    }';
    allowed record;
begin
    for allowed in
        select p.oid::regprocedure as signature, r.role
        from jsonb_each(may) as r (role, names) join pg_proc as p on r.names ? p.proname
        where p.pronamespace = 'webhook'::regnamespace
    loop
        execute format('grant execute on function %s to %I', allowed.signature, allowed.role);
    end loop;
end
$$;

grant select on webhook.meta to webhook_worker;
grant pg_read_all_stats to webhook_owner;  -- sample_queue says how old the oldest snapshot is, whoever holds it

grant select on all tables in schema webhook to webhook_operator;
revoke select on webhook.endpoint_key from webhook_operator;

grant select (id, tenant, url, event_types, state, state_reason, rate, burst, max_in_flight, timeout_seconds, circuit, created_at, in_flight,
              retry_seconds, not_before, failing_since, recovering_since, transport) on webhook.endpoints to webhook_reader;
grant select on webhook.events, webhook.deliveries, webhook.attempts, webhook.endpoint_keys, webhook.jobs to webhook_reader;

commit;
