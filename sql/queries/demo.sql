-- What the demo runs besides what everybody runs.

-- name: demo_enqueue
-- A producer's one call.
select webhook.enqueue($1::text, $2::text)

-- name: demo_progress
-- Deliveries by endpoint and state, while they move. Small tables only: it counts.
select endpoint_id, state, count(*)::int as deliveries, sum(attempts)::int as attempts
from webhook.deliveries group by endpoint_id, state

-- name: demo_endpoints
-- The endpoints' states at the end.
select id, state, state_reason from webhook.endpoints
