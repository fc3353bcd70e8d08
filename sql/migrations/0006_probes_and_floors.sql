-- A probe spends none of its delivery's retries, and none is won when it comes back unsent: the row says that it is one.
alter table webhook.inflight add column is_probe boolean not null default false;

drop function if exists webhook.claim(text, int, bigint, interval, interval, bigint[], interval);  -- it has one more parameter now

-- What raise_floor knows: see there.
alter table webhook.sched_floor
    add column ahead_turn     double precision not null default '-infinity',  -- what claims write is no smaller
    add column ahead_next_at  timestamptz      not null default '-infinity',
    add column under_way      text[]           not null default '{}',         -- who may not have known `seen_…` when it was asked last
    add column look_at_all_at timestamptz      not null default '-infinity';
update webhook.sched_floor set turn = '-infinity', next_at = '-infinity', seen_turn = null, seen_next_at = '-infinity';

-- Only who says `state = 'enabled'` may use it: what is read in the order of turns must not be read by it and sorted.
drop index webhook.endpoint_sched_tenant_turn;
create index endpoint_sched_tenant_turn on webhook.endpoint_sched (tenant_no, expected, turn) where turn is not null and state = 'enabled';

-- The patterns that an event type matches come first: a plan then begins with each of them, and reads nobody else's rows.
alter table webhook.subscription
    drop constraint subscription_once,
    add constraint subscription_once unique nulls not distinct (pattern, tenant, endpoint_id, removed);
