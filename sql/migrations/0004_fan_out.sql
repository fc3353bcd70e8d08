-- Wide fan-out is finished by workers, and a tenant's backlog may have a limit.

-- A limit is the operator's; the rest is what maintenance measured last, for tenants with a limit only.
alter table webhook.tenant
    add column backlog_max bigint check (backlog_max > 0),      -- null: no limit
    add column backlog bigint,                                  -- waiting deliveries, counted up to backlog_max + 1
    add column backlog_at timestamptz,
    add column backlog_alert boolean not null default false;    -- a warning was logged, and the tenant has not come back since

-- An event for more matching subscriptions than this is fanned out by workers.
alter table webhook.meta add column fan_out_max int not null default 1000 check (fan_out_max > 0);

-- Who was subscribed at an earlier moment can still be told: a row is marked before it is deleted. Transaction ids, as
-- moments have no order that all agree on. Rows from before this migration count as always there.
alter table webhook.subscription
    add column added xid8 not null default '0',
    add column removed xid8,                                    -- null: valid
    add column retired xid8;                                    -- no transaction from here on can have seen it valid
alter table webhook.subscription alter column added set default pg_current_xact_id();
alter table webhook.subscription
    drop constraint subscription_pkey,
    add constraint subscription_once unique nulls not distinct (tenant, pattern, endpoint_id, removed);
create index subscription_removed on webhook.subscription (removed) where removed is not null;

-- Events whose deliveries are still to be made, in batches, for the endpoints that `snapshot` saw subscribed.
create table webhook.fan_out (
    event_id         bigint      primary key,
    event_created_at timestamptz not null,
    tenant           text        not null,
    event_type       text        not null,
    payload_bytes    int         not null,
    run_at           timestamptz not null,
    snapshot         pg_snapshot not null,                      -- the producer's
    cursor           bigint      not null default 0             -- endpoints up to this id have theirs
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

insert into webhook.maintenance (task) values ('backlogs'), ('subscriptions');
create index tenant_limited on webhook.tenant (tenant) where backlog_max is not null;
