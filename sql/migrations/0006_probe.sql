-- A probe spends none of its delivery's retries, and none is won when it comes back unsent: the row says that it is one.
alter table webhook.inflight add column is_probe boolean not null default false;

drop function if exists webhook.claim(text, int, bigint, interval, interval, bigint[], interval);  -- it has one more parameter now
