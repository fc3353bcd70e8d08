-- Trace context (W3C) that a producer gives with an event: traceparent, and after a line break tracestate, if there is one. One column,
-- so that a row's null bitmap still has room in its header.
alter table webhook.event add column trace text;
alter table webhook.event_kept add column trace text;

-- enqueue and enqueue_many get two arguments more. With the old functions beside the new ones each call would be ambiguous, so they go;
-- but who may call them, and whose they are, stays: the functions that come after the migrations replace these.
do $$
declare
    old record;
    allowed record;
    more text;
    made regprocedure;
begin
    for old in
        select p.oid, p.proname, p.proretset, p.proowner::regrole as owner, p.proacl,
               pg_get_function_identity_arguments(p.oid) as identity, pg_get_function_arguments(p.oid) as arguments,
               array_to_string(p.proargtypes::regtype[], ', ') as types
        from pg_proc as p
        where p.pronamespace = 'webhook'::regnamespace and p.proname in ('enqueue', 'enqueue_many')
        order by p.prolang = (select l.oid from pg_language as l where l.lanname = 'sql') desc  -- these call the others
    loop
        execute format('drop function webhook.%I(%s)', old.proname, old.identity);
        more := case old.proname when 'enqueue' then 'text' else 'text[]' end;
        execute format(
            'create function webhook.%I(%s, %s %s default null, %s %s default null) returns %s bigint language sql return null::bigint',
            old.proname, old.arguments,
            case old.proname when 'enqueue' then 'traceparent' else 'traceparents' end, more,
            case old.proname when 'enqueue' then 'tracestate' else 'tracestates' end, more,
            case when old.proretset then 'setof' else '' end);
        made := format('webhook.%I(%s, %s, %s)', old.proname, old.types, more, more)::regprocedure;
        if old.proacl is not null then
            execute format('revoke all on function %s from public', made);
            for allowed in
                select a.grantee, a.grantee = 0 as everybody, a.is_grantable
                from aclexplode(old.proacl) as a where a.privilege_type = 'EXECUTE'
            loop
                execute format('grant execute on function %s to %s', made,
                               case when allowed.everybody then 'public' else allowed.grantee::regrole::text end);
            end loop;
        end if;
        execute format('alter function %s owner to %s', made, old.owner);
    end loop;
end
$$;
