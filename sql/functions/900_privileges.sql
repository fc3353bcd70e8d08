-- What others than the owner may call runs with the owner's rights, and nobody needs any right to the tables. deploy/postgres/roles.sql
-- says who may call what. Until it is applied, whoever may use the schema may enqueue, and nothing else. The last of these
-- files: replacing a function resets this.
do $$
declare
    interface constant text[] := array[
        'enqueue', 'enqueue_many',
        'claim', 'record', 'extend', 'plan_again', 'withhold_endpoint', 'has_due', 'reap', 'maintain',
        'sample_queue',
        'create_endpoint', 'next_endpoint_id', 'create_endpoint_with_keys', 'set_endpoint', 'pause_endpoint', 'resume_endpoint',
        'disable_endpoint', 'enable_endpoint', 'rotate_key', 'begin_endpoint_test', 'keys_to_seal', 'reseal_keys', 'set_tenant',
        'retry_delivery', 'cancel_delivery', 'hold_delivery', 'release_delivery',
        'preview_job', 'create_job', 'pause_job', 'resume_job', 'cancel_job', 'begin_purge', 'purge_fan_out', 'purge_events', 'purge_endpoint', 'purge_answers',
        'report_worker', 'forget_worker', 'drain_workers', 'tail_attempts', 'look_at_backlog', 'look_at_endpoints',
        'count_backlog'];
    f record;
begin
    for f in
        select p.oid::regprocedure as signature, p.proname, l.lanname = 'sql' and p.proname = 'enqueue' as only_calls_another
        from pg_proc as p join pg_language as l on l.oid = p.prolang
        where p.pronamespace = 'webhook'::regnamespace
    loop
        if f.proname = any (interface) and not f.only_calls_another then
            execute format('alter function %s security definer set search_path = pg_catalog, pg_temp', f.signature);
        end if;
        if f.proname not in ('enqueue', 'enqueue_many') then
            execute format('revoke execute on function %s from public', f.signature);
        end if;
    end loop;
end
$$;
