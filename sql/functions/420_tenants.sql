-- What operators set per tenant, and the measured backlog that a limit is held against.

-- Waiting deliveries of a tenant, those that a wide fan-out still has to make included, counted up to `rows_max`. A producer
-- may have to ask, and need not be allowed to read endpoints for it.
create or replace function webhook.count_backlog(tenant text, rows_max bigint) returns bigint
language sql stable security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
    select count(*) from (
        (
            select 1 from webhook.endpoint as e cross join lateral (
                select from webhook.pending as p where p.endpoint_id = e.id limit count_backlog.rows_max
            ) as p
            where e.tenant = count_backlog.tenant limit count_backlog.rows_max
        ) union all (
            select 1 from webhook.fan_out as f
            join webhook.subscription as s
                on s.tenant = f.tenant and s.pattern = any (webhook.patterns(f.event_type))
                and s.endpoint_id > f.cursor and s.removed is null
                and (f.about is null or (s.pattern <> '*' and s.endpoint_id <> f.about))
            where f.tenant = count_backlog.tenant limit count_backlog.rows_max
        )
        limit count_backlog.rows_max
    ) as waiting;
$$;

-- Measures the tenants that have a limit, never past it by more than one. Returns who crossed 80 % of it since the last time
-- ("backlog_near") and who came back under 70 % ("backlog_back"), as arrays of texts; {} if nobody did.
create or replace function webhook.measure_backlogs() returns jsonb
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
declare
    crossed jsonb;
begin
    with limited as materialized (  -- whoever has the row locked is changing its limit, or measuring
        select t.no, t.tenant, t.backlog_max, t.backlog, t.backlog_at, t.backlog_alert from webhook.tenant as t
        where t.backlog_max is not null
        order by t.no for no key update skip locked
    ), counted as materialized (
        select l.*, webhook.count_backlog(l.tenant, l.backlog_max + 1) as n from limited as l
    ), judged as materialized (
        select c.*, case when c.backlog_alert then c.n >= c.backlog_max * 0.7 else c.n >= c.backlog_max * 0.8 end as alert
        from counted as c
    ), stored as (  -- an unchanged number only often enough to stay fresh: each version of the row stays under a held snapshot
        update webhook.tenant as t set backlog = j.n, backlog_at = clock_timestamp(), backlog_alert = j.alert
        from judged as j
        where t.no = j.no
          and (j.backlog is distinct from j.n or j.backlog_alert <> j.alert or j.backlog_at < clock_timestamp() - interval '20 s')
    )
    select jsonb_strip_nulls(jsonb_build_object(
        'backlog_near', jsonb_agg(format('%L: %s of %s', j.tenant, j.n, j.backlog_max)) filter (where j.alert and not j.backlog_alert),
        'backlog_back', jsonb_agg(format('%L: %s of %s', j.tenant, j.n, j.backlog_max)) filter (where j.backlog_alert and not j.alert)))
    into crossed from judged as j;
    return crossed;
end
$$;

-- `changes` is a JSON object of weight (its share of the workers, 0.01 to 100; 1 for everybody who was given none) and
-- backlog_max (waiting deliveries beyond which enqueue fails; null: no limit). What is not given stays.
create or replace function webhook.set_tenant(
    tenant text, changes jsonb, actor text default session_user, reason text default ''
) returns void
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    unknown text;
begin
    if set_tenant.tenant is null or octet_length(set_tenant.tenant) > 255 then
        raise exception 'webhook: the tenant is null or longer than 255 bytes'
            using errcode = 'invalid_parameter_value', hint = 'No tenant is the empty string.';
    end if;
    select string_agg(k, ', ') into unknown from jsonb_object_keys(changes) as k where k not in ('weight', 'backlog_max');
    if unknown is not null then
        raise exception 'webhook: a tenant has no setting %', unknown using errcode = 'invalid_parameter_value';
    end if;
    if changes ? 'weight' and (case jsonb_typeof(changes -> 'weight') when 'number'
                               then (changes ->> 'weight')::numeric between 0.01 and 100 end) is not true then
        raise exception 'webhook: a weight is a number from 0.01 to 100, not %', changes -> 'weight'
            using errcode = 'invalid_parameter_value';
    end if;
    if jsonb_typeof(changes -> 'backlog_max') <> 'null' and (
        case jsonb_typeof(changes -> 'backlog_max') when 'number'
        then (changes ->> 'backlog_max')::numeric between 1 and 1e12
             and (changes ->> 'backlog_max')::numeric % 1 = 0 end) is not true then
        raise exception 'webhook: a backlog limit is a whole number from 1 to 10^12, or null for none, not %', changes -> 'backlog_max'
            using errcode = 'invalid_parameter_value';
    end if;
    insert into webhook.tenant (tenant) values (set_tenant.tenant) on conflict do nothing;
    update webhook.tenant as t set
        weight = coalesce((changes ->> 'weight')::float8, t.weight),
        backlog_max = case when changes ? 'backlog_max' then (changes ->> 'backlog_max')::numeric::bigint else t.backlog_max end,
        backlog = case when changes ? 'backlog_max' then
            case when jsonb_typeof(changes -> 'backlog_max') = 'number'
                 then webhook.count_backlog(t.tenant, (changes ->> 'backlog_max')::numeric::bigint + 1) end else t.backlog end,
        backlog_at = case when not changes ? 'backlog_max' then t.backlog_at
                          when jsonb_typeof(changes -> 'backlog_max') = 'number' then clock_timestamp() end,
        backlog_alert = t.backlog_alert and not changes ? 'backlog_max'
    where t.tenant = set_tenant.tenant;
    if changes ? 'backlog_max' then  -- a first limit is measured from now on
        update webhook.maintenance as m set due_at = clock_timestamp()
        where m.task in (select n.task from webhook.maintenance as n where n.task = 'backlogs' for update skip locked);
    end if;
    insert into webhook.audit (actor, action, reason, details)
    values (actor, 'tenant.set', reason, changes || jsonb_build_object('tenant', set_tenant.tenant));
end
$$;
