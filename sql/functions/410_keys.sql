-- Signing keys. What makes and seals them is outside the database, so that none is ever here unsealed (docs/adr/0017).
--
-- A key is a JSON object: {"scheme": 'v1' or 'v1a', "secret": base64, "sealed_with": name or null, "public": base64, v1a's only}.

create or replace function webhook.add_keys(endpoint_id bigint, keys jsonb) returns bigint[]
language sql
set search_path = pg_catalog, pg_temp
begin atomic
    with added as (
        insert into webhook.endpoint_key (endpoint_id, scheme, secret, sealed_with, public_key)
        select add_keys.endpoint_id, k.key ->> 'scheme', decode(k.key ->> 'secret', 'base64'), k.key ->> 'sealed_with',
               decode(k.key ->> 'public', 'base64')
        from jsonb_array_elements(keys) with ordinality as k (key, nth) order by k.nth
        returning id
    )
    select array_agg(a.id order by a.id) from added as a;
end;

-- Registers an endpoint under an id of `next_endpoint_id`, for which its keys were sealed.
create or replace function webhook.create_endpoint_with_keys(
    id bigint, url text, tenant text, settings jsonb, keys jsonb, actor text default session_user, reason text default ''
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(jsonb_array_length(keys), 0) = 0 then
        raise exception 'webhook: an endpoint without a key is sent nothing' using errcode = 'invalid_parameter_value';
    end if;
    perform webhook.register_endpoint(id, url, tenant, settings, actor, reason);
    perform webhook.add_keys(id, keys);
    return id;
end
$$;

-- Adds a key, which signs from now on, and ends those before it after `overlap`, in which all of them sign. What workers hold
-- already goes out with the keys that it was claimed with. Returns the new key's id.
create or replace function webhook.rotate_key(
    endpoint_id bigint, key jsonb, overlap interval, actor text default session_user, reason text default ''
) returns bigint
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    valid_max constant int := 8;  -- each adds a signature to every request's header
    added bigint;
    ends timestamptz := clock_timestamp() + overlap;
begin
    perform webhook.lock_endpoint(rotate_key.endpoint_id);
    if overlap is null or overlap < interval '0' then
        raise exception 'webhook: an overlap is not negative' using errcode = 'invalid_parameter_value';
    end if;
    if key ->> 'sealed_with' is null and exists (
        select from webhook.endpoint_key as k
        where k.endpoint_id = rotate_key.endpoint_id and k.sealed_with is not null and k.expires_at > clock_timestamp()
    ) then
        raise exception 'webhook: the keys of endpoint % are sealed, the new one would not be', endpoint_id
            using errcode = 'invalid_parameter_value', hint = 'Name the key file: WEBHOOK_WORKER_KEY_FILE.';
    end if;
    added := (webhook.add_keys(rotate_key.endpoint_id, jsonb_build_array(key)))[1];
    update webhook.endpoint_key as k set expires_at = ends
    where k.endpoint_id = rotate_key.endpoint_id and k.id <> added and k.expires_at > ends;
    if (select count(*) from webhook.endpoint_key as k
        where k.endpoint_id = rotate_key.endpoint_id and k.expires_at > clock_timestamp()) > valid_max then
        raise exception 'webhook: endpoint % would have more than % keys at once', endpoint_id, valid_max
            using errcode = 'object_not_in_prerequisite_state', hint = 'Wait until some expire, or rotate with --overlap 0s.';
    end if;
    update webhook.endpoint as e set version = e.version + 1 where e.id = rotate_key.endpoint_id;
    insert into webhook.audit (actor, action, endpoint_id, reason, details)
    values (actor, 'endpoint.rotate_key', rotate_key.endpoint_id, reason,
            jsonb_build_object('key_id', added, 'scheme', key ->> 'scheme', 'others_until', ends));
    return added;
end
$$;

-- Valid keys that are not sealed with this key-encryption key, after this id. Their secrets are in it, as they are stored.
create or replace function webhook.keys_to_seal(
    sealing text, after bigint, rows_max int,
    out id bigint, out endpoint_id bigint, out scheme text, out secret text, out sealed_with text
) returns setof record
language sql stable
set search_path = pg_catalog, pg_temp
begin atomic
    select k.id, k.endpoint_id, k.scheme, encode(k.secret, 'base64'), k.sealed_with
    from webhook.endpoint_key as k
    where k.sealed_with is distinct from sealing and k.id > after and k.expires_at > now()
    order by k.id limit rows_max;
end;

-- Writes keys that were sealed anew: a JSON array of {"id", "before": base64, "secret": base64, "sealed_with": name}. One that
-- somebody else has changed since is left alone, and none is unsealed. Returns how many were written; the audit log has it, too.
create or replace function webhook.reseal_keys(keys jsonb, actor text default session_user, reason text default '') returns int
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    written int;
begin
    if exists (select from jsonb_array_elements(keys) as n (key) where n.key ->> 'sealed_with' is null) then
        raise exception 'webhook: keys are sealed here, not unsealed' using errcode = 'invalid_parameter_value';
    end if;
    perform from webhook.endpoint_key as k
    where k.id in (select (n.key ->> 'id')::bigint from jsonb_array_elements(keys) as n (key)) order by k.id for update;
    update webhook.endpoint_key as k set secret = decode(n.key ->> 'secret', 'base64'), sealed_with = n.key ->> 'sealed_with'
    from jsonb_array_elements(keys) as n (key)
    where k.id = (n.key ->> 'id')::bigint and k.secret = decode(n.key ->> 'before', 'base64');
    get diagnostics written = row_count;
    if written > 0 then
        insert into webhook.audit (actor, action, reason, details)
        values (actor, 'keys.rotate', reason, jsonb_build_object(
            'sealed_with', keys -> 0 ->> 'sealed_with', 'keys', written,
            'ids', (select jsonb_agg((n.key ->> 'id')::bigint) from jsonb_array_elements(keys) as n (key))));
    end if;
    return written;
end
$$;

-- A worker holds an endpoint's deliveries because it cannot unseal its keys: nothing is sent unsigned. True if it was enabled.
create or replace function webhook.withhold_endpoint(endpoint_id bigint, worker text, reason text) returns boolean
language plpgsql
set search_path = pg_catalog, pg_temp
set lock_timeout = '1s'
as $$
begin
    if webhook.lock_endpoint(endpoint_id) <> 'enabled' then
        return false;
    end if;
    perform webhook.set_endpoint_state(endpoint_id, 'paused', worker, reason, 'endpoint.pause');
    return true;
end
$$;

-- Signing keys without their secrets.
create or replace view webhook.endpoint_keys as
select k.id, k.endpoint_id, k.scheme, k.sealed_with, k.public_key, k.created_at, nullif(k.expires_at, 'infinity') as expires_at
from webhook.endpoint_key as k;
