-- Old partitions are dropped by workers. What an unfinished delivery still needs is moved here first.
create table webhook.event_kept (
    id           bigint      not null,
    created_at   timestamptz not null,
    tenant       text        not null,
    event_type   text        not null,
    content_type text        not null,
    payload      text        not null,
    primary key (id, created_at)
);

-- Read from its oldest end when keys are deleted: dead entries there must not pile up to a fifth of a big table.
alter table webhook.idempotency_key set (autovacuum_vacuum_scale_factor = 0.02);

insert into webhook.maintenance (task) values ('retention'), ('kept_events');

drop function if exists webhook.maintain(interval, interval);  -- it has more parameters now
