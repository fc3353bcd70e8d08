-- What worker processes run.

-- name: claim
-- A batch of due deliveries as one JSON document. See functions/200_claim.sql.
select webhook.claim(
    $1::text, $2::int, $3::bigint, avoid => string_to_array($4::text, ',')::bigint[],
    avoid_tenants => array(select json_array_elements_text($5::text::json)), wait_max => make_interval(secs => $6::float8)
)

-- name: record
-- Outcomes of claimed deliveries, as one JSON document. See functions/300_record.sql.
select webhook.record($1::text, $2::text)

-- name: extend
-- Extends leases, given and answered as comma-separated ids.
select coalesce(string_agg(id::text, ','), '') from webhook.extend(string_to_array($1::text, ',')::bigint[]) as id

-- name: withhold
-- Pauses an endpoint whose keys cannot be unsealed: id, worker, reason.
select webhook.withhold_endpoint($1::bigint, $2::text, $3::text)

-- name: plan_again
-- When a delivery of a claim may be written once more.
select webhook.plan_again($1::bigint, $2::bigint)

-- name: has_due
-- Whether `run --once` has something left to do.
select webhook.has_due()

-- name: reap
-- Takes back what expired leases hold.
select webhook.reap()

-- name: maintain
-- One turn of housekeeping: retention of idempotency keys, events, deliveries and attempts in seconds; null keeps for ever.
select webhook.maintain(
    keep_idempotency_keys => make_interval(secs => $1::float8), keep_events => make_interval(secs => $2::float8),
    keep_deliveries => make_interval(secs => $3::float8), keep_attempts => make_interval(secs => $4::float8)
)

-- name: sample_queue
-- What the queue looks like just now, as one JSON document. See functions/260_sample.sql.
select webhook.sample_queue()

-- name: report_worker
-- What a worker says of itself: name, report as JSON. Returns whether an operator has asked it to drain.
select webhook.report_worker($1::text, $2::text::jsonb)

-- name: forget_worker
-- A worker that ends in good order: name.
select webhook.forget_worker($1::text)

-- name: schema
-- What this database says of itself, or nothing if it was never migrated.
select schema_version, oldest_worker, message_id_prefix, functions_hash from webhook.meta

-- name: encoding
-- Only UTF-8 databases are supported: payloads are text, byte for byte.
select current_setting('server_encoding')
