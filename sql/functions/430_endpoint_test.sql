-- Begins a test of an endpoint: what a claim would tell a worker of it, keys as they are stored included, and the number of an event
-- that is none, for the message id. Nothing is written but a row in webhook.audit, since keys are handed out.
create or replace function webhook.begin_endpoint_test(
    endpoint_id bigint, actor text default session_user, reason text default ''
) returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    document jsonb;
begin
    select jsonb_build_object(
        'version', e.version, 'tenant', e.tenant, 'url', e.url, 'headers', e.headers, 'timeout', e.timeout_seconds,
        'retry', e.retry_seconds, 'transport', e.transport, 'event_id', nextval('webhook.event_id'),
        'message_id_prefix', (select m.message_id_prefix from webhook.meta as m), 'state', s.state,
        'now', extract(epoch from clock_timestamp())::float8,
        'keys', (select coalesce(jsonb_agg(jsonb_build_array(k.scheme, encode(k.secret, 'base64'), k.sealed_with) order by k.id desc), '[]')
                 from webhook.endpoint_key as k where k.endpoint_id = e.id and k.expires_at > clock_timestamp()))
    into document
    from webhook.endpoint as e join webhook.endpoint_sched as s on s.endpoint_id = e.id
    where e.id = begin_endpoint_test.endpoint_id;
    if document is null then
        raise exception 'webhook: there is no endpoint %', endpoint_id using errcode = 'no_data_found';
    end if;
    insert into webhook.audit (actor, action, endpoint_id, reason) values (actor, 'endpoint.test', begin_endpoint_test.endpoint_id, reason);
    return document;
end
$$;
