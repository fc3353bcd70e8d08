-- Bulk changes of deliveries are jobs: a row here, and the fleet does it, a batch at a time (functions/530_jobs.sql).
create table webhook.job (
    id              bigint generated always as identity primary key,
    action          text             not null check (action in ('retry', 'cancel', 'hold', 'release')),
    filters         jsonb            not null check (jsonb_typeof(filters) = 'object'),  -- see functions/520_matching.sql
    forced          boolean          not null default false,
    rate            double precision check (rate between 0.001 and 10000),  -- deliveries a second; null: as fast as it goes
    rows_max        bigint           check (rows_max > 0),
    actor           text             not null,
    login           name             not null default session_user,
    reason          text             not null default '',
    created_at      timestamptz      not null default clock_timestamp(),
    last_id         bigint           not null,  -- later deliveries are none of its business
    total           bigint           not null,  -- matched when it was created
    state           text             not null default 'running' check (state in ('running', 'paused', 'done', 'cancelled')),
    cursor          bigint           not null default 0,  -- up to this id it is through
    done            bigint           not null default 0,
    skipped         bigint           not null default 0,
    skipped_because jsonb            not null default '{}',
    planned_until   timestamptz      not null default '-infinity',  -- GCRA: the next one may be due then
    stepped_at      timestamptz,
    finished_at     timestamptz
) with (fillfactor = 50);
create index job_running on webhook.job (id) where state = 'running';

-- Deliveries that an operator set aside: their run_at is infinity, and what it was before is kept here.
create table webhook.held_delivery (
    delivery_id bigint      primary key,
    run_at      timestamptz not null,
    actor       text        not null,
    reason      text        not null default '',
    held_at     timestamptz not null default clock_timestamp()
);

create index audit_delivery on webhook.audit (delivery_id, id) where delivery_id is not null;  -- a job writes one row for each

insert into webhook.maintenance (task, due_at) values ('jobs', 'infinity');  -- due when there is a job
