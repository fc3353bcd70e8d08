-- What happens to a tenant's endpoints and deliveries is told to those of its endpoints that ask for it (docs/adr/0014).

-- Enqueued by ourselves: deliveries of such an event lead to no further ones.
alter table webhook.event add column operational boolean not null default false;
alter table webhook.event_kept add column operational boolean not null default false;

-- An operational event is about this endpoint: not for it, nor for subscribers of '*'. Null: an ordinary event.
alter table webhook.fan_out add column about bigint;

-- The events of the outcomes that say something of the endpoint.
alter type webhook.effect add attribute event_ids bigint[], add attribute event_times timestamptz[];

-- What webhook.tell is given.
create type webhook.news as (
    event_type  text,
    endpoint_id bigint,
    reason      text,           -- of a dead delivery: its last outcome
    event_ids   bigint[],       -- the events whose deliveries led to it; null: an operator did it
    event_times timestamptz[],  -- their created_at
    delivery_id bigint,         -- the rest is for dead deliveries only
    attempts    int,
    status      int
);
