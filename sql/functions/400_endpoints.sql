-- Operators and producer services manage endpoints through these; each leaves a row in webhook.audit.
-- `settings` and `changes` are JSON objects of the columns a caller may choose:
--   event_types (array of 'order.created', 'order.*' or '*'; empty: all), rate (a second; null: none), burst,
--   max_in_flight, timeout_seconds, retry_seconds (array), headers (object), transport (a name in the workers' configuration);
--   in set_endpoint also url.

create or replace function webhook.create_endpoint(
    url text, tenant text default '', settings jsonb default '{}', keys text[] default null,
    actor text default session_user, reason text default '',
    out id bigint, out key text
) returns record
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    secret bytea;
begin
    id := webhook.next_endpoint_id();
    perform webhook.register_endpoint(id, url, tenant, settings, actor, reason);
    if keys is null or cardinality(keys) = 0 then
        -- 32 bytes out of 244 random bits; gen_random_uuid() draws on the server's strong source.
        keys := array['whsec_' || encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'base64')];
    end if;
    foreach key in array keys loop
        begin
            secret := decode(substr(key, 7), 'base64');
        exception when others then
            secret := null;
        end;
        if key not like 'whsec\_%' or secret is null or octet_length(secret) not between 24 and 64 then
            raise exception 'webhook: a key is "whsec_" and 24 to 64 bytes in base64'
                using errcode = 'invalid_parameter_value', hint = 'Leave it out and one is made.';
        end if;
        insert into webhook.endpoint_key (endpoint_id, secret) values (create_endpoint.id, secret);
    end loop;
    key := keys[1];
end
$$;

-- The id of an endpoint that is yet to be registered: what seals its keys seals them for this one.
create or replace function webhook.next_endpoint_id() returns bigint
language sql volatile
return nextval(pg_get_serial_sequence('webhook.endpoint', 'id'));

-- An endpoint without keys; those who call this add some, in the same transaction.
create or replace function webhook.register_endpoint(
    id bigint, url text, tenant text, settings jsonb, actor text, reason text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    insert into webhook.endpoint (id, tenant, url) overriding system value
    values (register_endpoint.id, register_endpoint.tenant, register_endpoint.url);
    insert into webhook.tenant (tenant) values (register_endpoint.tenant) on conflict do nothing;
    insert into webhook.endpoint_sched (endpoint_id, tenant_no)
    select register_endpoint.id, t.no from webhook.tenant as t where t.tenant = register_endpoint.tenant;
    perform webhook.change_endpoint(register_endpoint.id, settings);
    perform webhook.subscribe(register_endpoint.id);
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'endpoint.create', register_endpoint.id, reason,
            jsonb_build_object('url', url, 'tenant', register_endpoint.tenant) || settings - 'headers');
end
$$;

-- The subscription rows of a list of event types.
create or replace function webhook.endpoint_patterns(event_types text[]) returns setof text
language sql immutable
return unnest(case when cardinality(event_types) = 0 then array['*'] else event_types end);

-- Applies the settings; shared by create and set.
create or replace function webhook.change_endpoint(endpoint_id bigint, changes jsonb) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    unknown text;
    types text[];
    new_rate float8;
begin
    select string_agg(k, ', ') into unknown from jsonb_object_keys(changes) as k
    where k not in ('url', 'event_types', 'rate', 'burst', 'max_in_flight', 'timeout_seconds', 'retry_seconds', 'headers', 'transport');
    if unknown is not null then
        raise exception 'webhook: an endpoint has no setting %', unknown using errcode = 'invalid_parameter_value';
    end if;
    if changes ? 'event_types' then
        types := array(select jsonb_array_elements_text(changes -> 'event_types'));
        if exists (select from unnest(types) as t where t !~ '^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$') then
            raise exception 'webhook: an event type to subscribe to is order.created, order.* or *, not %',
                (select t from unnest(types) as t where t !~ '^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)$' limit 1)
                using errcode = 'invalid_parameter_value';
        end if;
    end if;
    if exists (
        select from jsonb_each(case jsonb_typeof(changes -> 'headers') when 'object' then changes -> 'headers' end) as h
        where h.key !~ '^[!#$%&''*+.^_`|~0-9A-Za-z-]+$' or lower(h.key) like 'webhook-%'
           or lower(h.key) in ('host', 'connection', 'content-length', 'content-type', 'transfer-encoding', 'user-agent')
           or jsonb_typeof(h.value) <> 'string' or h.value #>> '{}' !~ '^[!-~]([ -~]*[!-~])?$'
    ) then
        raise exception 'webhook: a custom header has a token as its name, printable ASCII as its value, and is none that the worker sets'
            using errcode = 'invalid_parameter_value';
    end if;
    update webhook.endpoint as e set
        url = coalesce(changes ->> 'url', e.url),
        event_types = coalesce(types, e.event_types),
        headers = coalesce(changes -> 'headers', e.headers),
        transport = coalesce(changes ->> 'transport', e.transport),
        timeout_seconds = coalesce((changes ->> 'timeout_seconds')::float8, e.timeout_seconds),
        retry_seconds = case when changes ? 'retry_seconds'
            then array(select jsonb_array_elements_text(changes -> 'retry_seconds')::float8) else e.retry_seconds end,
        version = e.version + 1
    where e.id = change_endpoint.endpoint_id;
    if (changes ->> 'rate')::float8 between 1e-5 and 1e6 then  -- others are refused by the table
        new_rate := (changes ->> 'rate')::float8;
    end if;
    update webhook.endpoint_sched as s set
        version = s.version + 1,
        rate = case when changes ? 'rate' then (changes ->> 'rate')::float8 else s.rate end,
        burst = coalesce((changes ->> 'burst')::int, s.burst),
        max_in_flight = coalesce((changes ->> 'max_in_flight')::int, s.max_in_flight),
        tat = case  -- what was sent still counts, at the new rate: an old slow one holds nothing back
            when not changes ? 'rate' then s.tat
            -- The first one: what is in flight goes out without a plan, so the bucket is charged with it.
            when s.rate is null then greatest(s.tat, clock_timestamp() + make_interval(secs => s.in_flight / new_rate))
            when s.tat <= clock_timestamp() then s.tat
            else clock_timestamp() + coalesce((s.tat - clock_timestamp()) * (s.rate / new_rate), '0')
        end,
        next_at = case when s.state = 'enabled' and s.turn is null and s.circuit <> 'half_open'
                            and exists (select from webhook.pending as p where p.endpoint_id = s.endpoint_id)
                       then greatest(clock_timestamp(), s.not_before) else s.next_at end  -- the new limits decide
    where s.endpoint_id = change_endpoint.endpoint_id;
end
$$;

create or replace function webhook.set_endpoint(
    endpoint_id bigint, changes jsonb, actor text default session_user, reason text default ''
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
begin
    perform webhook.lock_endpoint(set_endpoint.endpoint_id);
    perform webhook.change_endpoint(set_endpoint.endpoint_id, changes);
    if changes ? 'event_types' then
        perform webhook.subscribe(set_endpoint.endpoint_id);
    end if;
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'endpoint.set', set_endpoint.endpoint_id, reason, changes - 'headers');
end
$$;

-- Locks the endpoint's scheduling row, as everybody does who writes to its deliveries. Returns its state.
create or replace function webhook.lock_endpoint(endpoint_id bigint) returns text
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    found_state text;
begin
    select s.state into found_state from webhook.endpoint_sched as s
    where s.endpoint_id = lock_endpoint.endpoint_id order by s.version desc limit 1 for no key update;
    if not found then
        raise exception 'webhook: there is no endpoint %', endpoint_id using errcode = 'no_data_found';
    end if;
    return found_state;
end
$$;

-- `action` 'endpoint.enable' also closes the circuit: somebody has looked. What failed before then comes back at a growing rate.
create or replace function webhook.set_endpoint_state(
    endpoint_id bigint, state text, actor text, reason text, action text
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    before text := webhook.lock_endpoint(set_endpoint_state.endpoint_id);
    closes boolean := action = 'endpoint.enable';
begin
    if before = set_endpoint_state.state and not (closes and exists (
        select from webhook.endpoint_sched as s where s.endpoint_id = set_endpoint_state.endpoint_id and s.circuit <> 'closed'
    )) then
        return;
    end if;
    update webhook.endpoint_sched as s set
        version = s.version + 1,
        state = set_endpoint_state.state,
        state_reason = case set_endpoint_state.state when 'enabled' then '' else reason end,
        head = '-infinity',
        circuit = case when closes then 'closed' else s.circuit end,
        probe_claim = case when closes then null else s.probe_claim end,
        failures = case when closes then 0 else s.failures end,
        failure_ratio = case when closes then 0 else s.failure_ratio end,
        failing_since = case when closes then null else s.failing_since end,
        openings = case when closes then 0 else s.openings end,
        recovering_since = case when closes and s.failing_since is not null then clock_timestamp()
                                when closes then null else s.recovering_since end,
        not_before = case when closes then '-infinity' else s.not_before end,
        turn = null,
        next_at = case when set_endpoint_state.state = 'enabled' and (closes or s.circuit <> 'half_open')
                       then greatest(clock_timestamp(), case when not closes then s.not_before end) else 'infinity' end
    where s.endpoint_id = set_endpoint_state.endpoint_id;
    insert into webhook.audit (actor, action, endpoint_id, reason)
    values (actor, action, set_endpoint_state.endpoint_id, reason);
    if 'disabled' in (before, set_endpoint_state.state) then
        perform webhook.tell(array[(case when before = 'disabled' then 'endpoint.recovered' else 'endpoint.disabled' end,
                                    set_endpoint_state.endpoint_id, reason, null, null, null, null, null)::webhook.news],
                             clock_timestamp());
    end if;
end
$$;

create or replace function webhook.pause_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if webhook.lock_endpoint(endpoint_id) = 'disabled' then
        raise exception 'webhook: endpoint % is disabled', endpoint_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Enable it first.';
    end if;
    perform webhook.set_endpoint_state(endpoint_id, 'paused', actor, reason, 'endpoint.pause');
end
$$;

create or replace function webhook.resume_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if webhook.lock_endpoint(endpoint_id) = 'disabled' then
        raise exception 'webhook: endpoint % is disabled, not paused', endpoint_id
            using errcode = 'object_not_in_prerequisite_state', hint = 'Look at its state_reason, then enable it.';
    end if;
    perform webhook.set_endpoint_state(endpoint_id, 'enabled', actor, reason, 'endpoint.resume');
end
$$;

create or replace function webhook.disable_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language sql
return webhook.set_endpoint_state(endpoint_id, 'disabled', actor, reason, 'endpoint.disable');

create or replace function webhook.enable_endpoint(endpoint_id bigint, actor text default session_user, reason text default '')
returns void
language sql
return webhook.set_endpoint_state(endpoint_id, 'enabled', actor, reason, 'endpoint.enable');
