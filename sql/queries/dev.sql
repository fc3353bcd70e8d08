-- What `webhook-worker dev` asks besides what everybody asks. Its database is small, and its own.

-- name: dev_keys
-- The signing keys that are valid, as they are stored, the newest first.
select k.endpoint_id, k.scheme, encode(k.secret, 'base64') as secret, k.sealed_with
from webhook.endpoint_key as k where k.expires_at > clock_timestamp() order by k.id desc limit 1000

-- name: dev_event
-- What an event is: id.
select v.event_type, v.tenant from webhook.event as v where v.id = $1::bigint

-- name: dev_made
-- The endpoints that were created by somebody: actor.
select a.endpoint_id from webhook.audit as a where a.action = 'endpoint.create' and a.actor = $1::text
