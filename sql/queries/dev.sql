-- What `webhook-worker dev` asks besides what everybody asks. Its database is small, and its own.

-- name: dev_keys
-- The signing keys that are valid, as they are stored, the newest first: URL of their endpoints, or null for all.
select k.endpoint_id, k.scheme, encode(k.secret, 'base64') as secret, k.sealed_with
from webhook.endpoint_key as k join webhook.endpoint as e on e.id = k.endpoint_id
where k.expires_at > clock_timestamp() and ($1::text is null or e.url = $1)
order by k.id desc

-- name: dev_event
-- What an event is: id.
select v.event_type, v.tenant from webhook.event as v where v.id = $1::bigint

-- name: dev_made
-- The endpoints that were created by somebody: actor.
select a.endpoint_id from webhook.audit as a where a.action = 'endpoint.create' and a.actor = $1::text

-- name: dev_before
-- The enabled endpoints that were there before somebody's first, or all of them if there is none of somebody's: actor.
select e.id from webhook.endpoints as e
where e.state = 'enabled'
  and not exists (
    select from webhook.audit as a where a.action = 'endpoint.create' and a.actor = $1::text and a.endpoint_id <= e.id
  )
order by e.id
