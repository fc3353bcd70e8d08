-- What `python -m benchmarks chaos` does to a database and asks of it.

-- name: chaos_prepare
-- Circuits that look again after a second, four at most, so that a drain is short; returns the prefix of message ids.
update webhook.meta set circuit_pause_min = '1 s', circuit_pause_max = '4 s' returning message_id_prefix

-- name: chaos_endpoint
-- Adds an endpoint: its URL, settings, and key. Returns its id.
select id from webhook.create_endpoint($1::text, settings => $2::text::jsonb, keys => array[$3::text])

-- name: chaos_backlog
-- How many deliveries have not ended.
select (select count(*) from webhook.pending) + (select count(*) from webhook.inflight)

-- name: chaos_terminate
-- Ends about two thirds of all connections but this one; returns how many.
select count(pg_terminate_backend(pid)) from pg_stat_activity
where backend_type = 'client backend' and pid <> pg_backend_pid() and random() < 0.67

-- name: chaos_force_retry
-- Has one of the latest deliveries sent once more, by an operator's force; null if there is none.
select webhook.retry_delivery(f.id, force => true, actor => 'chaos', reason => 'to see it once more')
from (select id from webhook.finished where state = 'delivered' order by finished_at desc limit 20) as f order by random() limit 1

-- name: chaos_events
-- Every event: id and SHA-256 of its payload.
select id, encode(sha256(convert_to(payload, 'UTF8')), 'hex') as digest from webhook.events

-- name: chaos_deliveries
-- Where every delivery stands; `waits`: it is not due yet.
select event_id, endpoint_id, state, extract(epoch from finished_at)::float8 as finished_at, last_error,
       state = 'pending' and next_attempt_at > now() as waits
from webhook.deliveries

-- name: chaos_attempts
-- Every recorded attempt, in order.
select event_id, endpoint_id, outcome, coalesce(error, '') as error, extract(epoch from started_at)::float8 as at
from webhook.attempts order by delivery_id, attempt

-- name: chaos_forced
-- Which deliveries were retried by force, once for each time.
select d.event_id, d.endpoint_id from webhook.audit as a join webhook.deliveries as d on d.id = a.delivery_id
where a.action = 'delivery.retry'
