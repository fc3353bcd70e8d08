-- The schema of 0.1.0. docs/architecture.md explains the tables; this file says why each column is where it is.

-- What this database is: one row.
create table webhook.meta (
    one               boolean primary key default true check (one),
    schema_version    int     not null,
    oldest_worker     text    not null,  -- the oldest release that may still run on this schema
    functions_hash    text    not null default '',
    message_id_prefix text    not null,  -- part of every webhook-id, so that two databases never collide
    payload_bytes_max int     not null default 262144 check (payload_bytes_max > 0)
);
insert into webhook.meta (schema_version, oldest_worker, message_id_prefix)
values (0, '0.1.0', substr(translate(encode(uuid_send(gen_random_uuid()), 'base64'), '+/=', ''), 1, 8));

create sequence webhook.event_id;
create sequence webhook.delivery_id;
create sequence webhook.claim_id;

-- What producers enqueue. The payload lives here only: hot rows never carry it.
create table webhook.event (
    id           bigint      not null,
    created_at   timestamptz not null,
    tenant       text        not null,
    event_type   text        not null,
    content_type text        not null,
    payload      text        not null,
    primary key (id, created_at)
) partition by range (created_at);

-- Producers who give the same key wait for each other, and only they. A table of its own, because a table
-- partitioned by time cannot hold this unique constraint.
create table webhook.idempotency_key (
    tenant     text        not null,
    key        text        not null,
    event_id   bigint      not null,
    created_at timestamptz not null,
    primary key (tenant, key)
);
create index idempotency_key_age on webhook.idempotency_key (created_at);

-- Where events go: the cold half of an endpoint, what somebody configured.
create table webhook.endpoint (
    id              bigint generated always as identity primary key,
    tenant          text             not null check (octet_length(tenant) <= 255),
    url             text             not null check (url ~ '^https?://[^[:space:][:cntrl:]]+$' and octet_length(url) <= 2048),
    event_types     text[]           not null default '{}',  -- empty: every type
    headers         jsonb            not null default '{}' check (jsonb_typeof(headers) = 'object'),
    timeout_seconds double precision not null default 15 check (timeout_seconds > 0 and timeout_seconds <= 300),
    retry_seconds   double precision[] not null default '{5,300,1800,7200,18000,36000,50400,72000,86400}'
                    check (cardinality(retry_seconds) <= 100 and 0 <= all (retry_seconds) and 31536000 >= all (retry_seconds)),
    version         int              not null default 1,  -- rises with every change, so that workers may cache
    created_at      timestamptz      not null default now()
);
create index endpoint_tenant on webhook.endpoint (tenant, id);

-- Which endpoints want an event type: one row a pattern ('order.created', 'order.*' or '*').
create table webhook.subscription (
    tenant      text   not null,
    pattern     text   not null,
    endpoint_id bigint not null references webhook.endpoint,
    primary key (tenant, pattern, endpoint_id)
);
create index subscription_endpoint on webhook.subscription (endpoint_id);

-- Signing keys. Several are valid at once during a rotation. `sealed_with` names the key-encryption key; null: not sealed.
create table webhook.endpoint_key (
    id          bigint generated always as identity primary key,
    endpoint_id bigint      not null references webhook.endpoint,
    scheme      text        not null default 'v1' check (scheme in ('v1', 'v1a')),
    secret      bytea       not null check (octet_length(secret) between 16 and 256),
    sealed_with text,
    created_at  timestamptz not null default now(),
    expires_at  timestamptz not null default 'infinity'
);
create index endpoint_key_endpoint on webhook.endpoint_key (endpoint_id, id);

-- The hot half of an endpoint, and the unit of scheduling. Claims lock this row, so everything that must be exact over
-- all workers (state, token bucket, in-flight counter) is a column of it.
create table webhook.endpoint_sched (
    endpoint_id   bigint           primary key,
    state         text             not null default 'enabled' check (state in ('enabled', 'paused', 'disabled')),
    state_reason  text             not null default '',
    circuit       text             not null default 'closed' check (circuit in ('closed', 'open', 'half_open')),
    rate          double precision check (rate between 1e-5 and 1e6),  -- tokens a second (one a day is 1.2e-5); null: no limit. NaN is above 1e6
    burst         int              not null default 1 check (burst between 1 and 1000000),
    max_in_flight int              not null default 64 check (max_in_flight between 1 and 100000),
    in_flight     int              not null default 0 check (in_flight >= 0),
    tat           timestamptz      not null default '-infinity',  -- GCRA: theoretical arrival time
    not_before    timestamptz      not null default '-infinity',  -- the receiver asked for quiet until then (Retry-After)
    head          timestamptz      not null default '-infinity',  -- no pending row is older, unless `wake` says so
    next_at       timestamptz      not null default 'infinity',   -- when this endpoint is worth visiting again
    check (state = 'enabled' or next_at = 'infinity')             -- held deliveries are derived from the state
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index endpoint_sched_next_at on webhook.endpoint_sched (next_at) where next_at < 'infinity';

-- Due or waiting deliveries. Narrow: a row is written once and moved, never updated in place.
create table webhook.pending (
    id               bigint      not null primary key,
    endpoint_id      bigint      not null,
    run_at           timestamptz not null,  -- infinity: held by an operator
    event_id         bigint      not null,
    event_created_at timestamptz not null,  -- finds the event's partition
    payload_bytes    int         not null,  -- lets a claim bound its size without reading payloads
    attempt          smallint    not null default 0 check (attempt >= 0),              -- attempts made so far
    attempts_before  smallint    not null default 0 check (attempts_before <= attempt)  -- of these, before the last manual retry
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index pending_due on webhook.pending (endpoint_id, run_at, id);

-- Deliveries leased to a worker. The claim id is the fence: an outcome that names another one changes nothing.
create table webhook.inflight (
    claim_id         bigint      not null,
    id               bigint      not null,
    endpoint_id      bigint      not null,
    run_at           timestamptz not null,
    event_id         bigint      not null,
    event_created_at timestamptz not null,
    payload_bytes    int         not null,
    attempt          smallint    not null check (attempt > 0),  -- counted at the claim, so a delivery that kills workers ends dead
    attempts_before  smallint    not null,
    primary key (claim_id, id)
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- One lease a batch: extending it is one row, whatever the batch's size.
create table webhook.claim_batch (
    claim_id    bigint      primary key,
    worker      text        not null,
    claimed_at  timestamptz not null,
    lease       interval    not null check (lease > interval '0'),
    lease_until timestamptz not null
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);
create index claim_batch_lease on webhook.claim_batch (lease_until);

-- Producers append here instead of touching endpoint_sched, whose rows the whole fleet locks.
create table webhook.wake (
    endpoint_id bigint      not null,
    run_at      timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_cost_delay = 0);

-- Terminal deliveries.
create table webhook.finished (
    id               bigint      not null,
    finished_at      timestamptz not null,
    state            text        not null check (state in ('delivered', 'dead', 'cancelled')),
    endpoint_id      bigint      not null,
    event_id         bigint      not null,
    event_created_at timestamptz not null,
    payload_bytes    int         not null,
    attempt          smallint    not null,
    last_status      int,
    last_error       text        check (state <> 'delivered' or last_error is null),
    primary key (id, finished_at)
) partition by range (finished_at);
create index finished_not_delivered on webhook.finished (state, id) where state <> 'delivered';

-- One row an HTTP request, or a lease that expired before anybody said how it ended.
create table webhook.attempt (
    delivery_id      bigint           not null,
    attempt          smallint         not null,
    event_id         bigint           not null,
    endpoint_id      bigint           not null,
    started_at       timestamptz      not null,
    duration_seconds double precision not null check (duration_seconds >= 0),
    outcome          text             not null,
    status           int,
    response         text,
    error            text,
    worker           text             not null
) partition by range (started_at);
create index attempt_delivery on webhook.attempt (delivery_id, attempt);

-- The net under the partitions made ahead: enqueue never fails because workers were down for weeks.
create table webhook.event_default partition of webhook.event default;
create table webhook.finished_default partition of webhook.finished default;
create table webhook.attempt_default partition of webhook.attempt default;

-- Who changed what, when and why.
create table webhook.audit (
    id          bigint generated always as identity primary key,
    at          timestamptz not null default clock_timestamp(),
    actor       text        not null,
    action      text        not null,
    endpoint_id bigint,
    delivery_id bigint,
    reason      text        not null default '',
    details     jsonb       not null default '{}'
);
create index audit_endpoint on webhook.audit (endpoint_id, id) where endpoint_id is not null;

-- Slow housekeeping: whoever locks the row has the turn, and a crash gives it back.
create table webhook.maintenance (
    task    text        primary key,
    due_at  timestamptz not null default '-infinity',
    cursor  bigint      not null default 0
);
insert into webhook.maintenance (task) values ('reconcile'), ('partitions'), ('idempotency_keys');
