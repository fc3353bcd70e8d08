-- Worker processes, as they describe themselves every few seconds. No index but the key, and room on each page: an update is
-- heap-only, and leaves nothing for anybody else to read.
create table webhook.worker (
    name                 text             primary key,
    host                 text             not null,
    pid                  int              not null,
    runtime              text             not null,
    version              text             not null,
    lanes                int              not null,
    started_at           timestamptz      not null default clock_timestamp(),
    seen_at              timestamptz      not null default clock_timestamp(),
    attempted            bigint           not null default 0,
    delivered            bigint           not null default 0,
    attempted_per_second double precision not null default 0,  -- since the report before
    delivered_per_second double precision not null default 0,
    in_hand              int              not null default 0,  -- claimed, and not yet recorded
    draining             boolean          not null default false,  -- it says so
    drain_asked_at       timestamptz                               -- by an operator
) with (fillfactor = 50);
insert into webhook.maintenance (task) values ('workers');
