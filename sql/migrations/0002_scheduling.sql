-- Who is served next: a run queue that is fair to tenants, timers, a circuit for each endpoint, and a schedule that stays
-- quick while a transaction held open elsewhere keeps every dead row alive (docs/adr/0010).

-- Tenants that have endpoints. The weight is a tenant's share when there is more work than the workers can carry.
create table webhook.tenant (
    no     int generated always as identity primary key,  -- narrow: hot rows carry it
    tenant text             not null unique,
    weight double precision not null default 1 check (weight between 0.01 and 100)
);
insert into webhook.tenant (tenant) select distinct e.tenant from webhook.endpoint as e order by 1;

-- When a circuit opens, for how long, and when an endpoint that does nothing but fail is disabled.
alter table webhook.meta
    add column circuit_failures      int              not null default 10 check (circuit_failures > 0),
    add column circuit_failure_ratio double precision not null default 0.75 check (circuit_failure_ratio between 0.1 and 1),
    add column circuit_pause_min     interval         not null default '10 s' check (circuit_pause_min > interval '0'),
    add column circuit_pause_max     interval         not null default '30 min' check (circuit_pause_max >= circuit_pause_min),
    add column disable_after         interval         not null default '5 days' check (disable_after > interval '0');

-- An endpoint is in the run queue (it has a turn), or waits for a timer (next_at), or for an event or a free slot (neither).
alter table webhook.endpoint_sched
    add column version          bigint           not null default 0,  -- rises with every update; see the primary key
    add column tenant_no        int,
    add column turn             double precision,  -- place in the run queue, as virtual time; null: not in it
    add column expected         smallint         not null default 1,  -- rows that it is believed to have due, while in the queue
    add column failures         int              not null default 0,  -- in a row
    add column failure_ratio    double precision not null default 0,  -- of the last twenty attempts or so, newer ones weigh more
    add column failing_since    timestamptz,                          -- nothing but failures since then
    add column openings         int              not null default 0,  -- of the circuit, since it was last well
    add column probe_claim      bigint,                               -- the claim that carries the one probe
    add column recovering_since timestamptz;                          -- the circuit has closed, and the rate is growing
update webhook.endpoint_sched as s set tenant_no = t.no
from webhook.endpoint as e join webhook.tenant as t using (tenant) where e.id = s.endpoint_id;
alter table webhook.endpoint_sched
    alter column tenant_no set not null,
    add check (turn is null or (state = 'enabled' and next_at = 'infinity')),
    add check ((circuit = 'half_open') = (probe_claim is not null)),
    drop constraint endpoint_sched_pkey,
    -- Read backwards from (endpoint, ∞) it meets the newest version first, however many dead ones are behind it.
    add primary key (endpoint_id, version);
create index endpoint_sched_turn on webhook.endpoint_sched (turn) where turn is not null;
create index endpoint_sched_tenant_turn on webhook.endpoint_sched (tenant_no, expected, turn) where turn is not null;

-- No endpoint that is due has a smaller turn or an earlier next_at: claims begin to read there, past the dead entries.
-- Raised every few seconds, to what was found the time before, so that no transaction under way is overtaken.
create table webhook.sched_floor (
    one          boolean          primary key default true check (one),
    turn         double precision not null default '-infinity',
    next_at      timestamptz      not null default '-infinity',
    seen_turn    double precision,
    seen_next_at timestamptz      not null default '-infinity'
);
insert into webhook.sched_floor default values;
insert into webhook.maintenance (task) values ('floor'), ('wake');

-- What one record does to one endpoint, for webhook.record and webhook.circuit_after. Arrays: the claim of each delivery.
create type webhook.effect as (
    endpoint_id   bigint,
    ok_claims     bigint[],  -- delivered
    failed_claims bigint[],  -- the receiver's fault
    void_claims   bigint[],  -- given back, lost or our own fault: says nothing of the receiver
    due_at        timestamptz,
    hold_until    timestamptz,
    disable       text
);

-- `wake` becomes a ring of three tables, written in turn for ten seconds each: the ones not written to are emptied whole,
-- so that dead rows are gone though a snapshot is held elsewhere (as PgQ does it).
alter table webhook.wake rename to wake_before;
create table webhook.wake (
    endpoint_id bigint      not null,
    run_at      timestamptz not null,
    slot        smallint    not null default (floor(extract(epoch from clock_timestamp()) / 10)::bigint % 3)
) partition by list (slot);
create table webhook.wake_0 partition of webhook.wake for values in (0) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create table webhook.wake_1 partition of webhook.wake for values in (1) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create table webhook.wake_2 partition of webhook.wake for values in (2) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
insert into webhook.wake (endpoint_id, run_at) select endpoint_id, run_at from webhook.wake_before;
drop function if exists webhook.has_due();  -- it depends on the table; comes again with the functions
drop table webhook.wake_before;

drop function if exists webhook.claim(text, int, bigint, interval, interval);  -- it has one more parameter now
