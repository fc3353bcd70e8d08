-- What the functions do that others than the owner may call (900_privileges.sql): `\df+ webhook.enqueue` shows it in psql, and
-- docs/reference/sql.md is made of it.

comment on function webhook.enqueue(text, text, text, text, timestamptz, text, text, text) is
'Queues an event, if the transaction commits. Returns its id. Payloads given as text or json are sent byte for byte, jsonb as Postgres writes it. The same idempotency_key again in the same tenant queues nothing and returns the first event''s id; keys are kept for 30 days. deliver_at may lie ahead. An invalid traceparent or tracestate is left out.';
comment on function webhook.enqueue(text, json, text, text, timestamptz, text, text, text) is
'Queues an event, if the transaction commits. Returns its id. Payloads given as text or json are sent byte for byte, jsonb as Postgres writes it. The same idempotency_key again in the same tenant queues nothing and returns the first event''s id; keys are kept for 30 days. deliver_at may lie ahead. An invalid traceparent or tracestate is left out.';
comment on function webhook.enqueue(text, jsonb, text, text, timestamptz, text, text, text) is
'Queues an event, if the transaction commits. Returns its id. Payloads given as text or json are sent byte for byte, jsonb as Postgres writes it. The same idempotency_key again in the same tenant queues nothing and returns the first event''s id; keys are kept for 30 days. deliver_at may lie ahead. An invalid traceparent or tracestate is left out.';
comment on function webhook.enqueue_many is
'Queues many events of one tenant in one statement, as enqueue does each. Returns their ids in the order of the arrays, which are of one length. Idempotency keys may be null; one that was used before, or earlier in the same call, gives the first event''s id.';

comment on function webhook.create_endpoint is
'Registers an endpoint and returns its id and signing key, which is made unless keys (whsec_…) are given. settings is an object of event_types, rate, burst, max_in_flight, timeout_seconds, retry_seconds, headers, transport; what is not given has its default. The URL is not resolved here, and the key is stored as it is: `endpoints add` and worker.endpoints judge the one and seal the other.';
comment on function webhook.next_endpoint_id is
'Draws the id of an endpoint that is yet to be registered, so that its keys can be sealed for it.';
comment on function webhook.create_endpoint_with_keys is
'Registers an endpoint under an id of next_endpoint_id, with keys that were made and sealed outside: an array of {"scheme", "secret", "sealed_with", "public"}.';
comment on function webhook.set_endpoint is
'Changes what is given, and leaves the rest: the settings of create_endpoint, and url. Workers follow within a second. A rate of null takes the limit away.';
comment on function webhook.pause_endpoint is
'Holds an endpoint''s deliveries, those to come included, until resume_endpoint. Nothing is lost, and no attempt is spent.';
comment on function webhook.resume_endpoint is
'Lets a paused endpoint go on.';
comment on function webhook.disable_endpoint is
'Holds an endpoint''s deliveries for a cause that somebody has to look at. The tenant''s endpoints that subscribe to endpoint.disabled are told.';
comment on function webhook.enable_endpoint is
'Lets a disabled or paused endpoint go on, and closes its circuit; what failed before comes back at a growing rate.';
comment on function webhook.rotate_key is
'Adds a signing key, first in the header from now on. Those before it sign as well until the overlap is over. Returns the new key''s id.';
comment on function webhook.begin_endpoint_test is
'What a claim would tell a worker of this endpoint, its keys as they are stored included, for a signed test message. Nothing is queued; the audit log has it, since keys are read.';
comment on function webhook.keys_to_seal is
'Valid signing keys, as they are stored, that are not sealed with this key-encryption key, after this id.';
comment on function webhook.reseal_keys is
'Writes signing keys that were sealed anew, each only if it is what it was. Returns how many were written.';
comment on function webhook.set_tenant is
'Sets a tenant''s weight (its share of the workers beside others of 1) and backlog_max (waiting deliveries beyond which enqueue fails; null for no limit). What is not given stays.';

comment on function webhook.retry_delivery is
'Makes a delivery due now, its retry schedule from the start: one that is dead, cancelled or waiting, and with force one that is delivered or in flight, whose receiver may then get it twice. Returns the state that it was in.';
comment on function webhook.cancel_delivery is
'Ends a delivery that waits, as cancelled. Returns the state that it was in.';
comment on function webhook.hold_delivery is
'Sets a delivery that waits aside, until release_delivery. Returns the state that it was in.';
comment on function webhook.release_delivery is
'Lets a delivery go that an operator set aside: due when it would have been. Returns the state that it was in.';
comment on function webhook.matching_pending is
'The waiting deliveries that match: filters is an object of state, endpoint_id, tenant, event_type, created_since, created_before, last_error, last_status, set_aside.';
comment on function webhook.matching_inflight is
'The deliveries in flight that match, with the filters of matching_pending.';
comment on function webhook.matching_finished is
'The finished deliveries that match, with the filters of matching_pending.';
comment on function webhook.preview_job is
'What a job would be about: how many deliveries, and the first few of them.';
comment on function webhook.create_job is
'Begins a bulk change of the deliveries that match now (action retry, cancel, hold or release; filters as for matching_pending), which the workers carry out at this rate a second. Returns its id.';
comment on function webhook.pause_job is
'Pauses a job. What it has done, or planned within the next three seconds, stays.';
comment on function webhook.resume_job is
'Lets a paused job go on.';
comment on function webhook.cancel_job is
'Ends a job. What it has done, or planned within the next three seconds, stays.';
comment on function webhook.begin_purge is
'Begins the erasure of one event, or of all that a tenant has enqueued until now. Returns the number that the steps take, and what it is about. `events purge` makes the steps.';
comment on function webhook.purge_fan_out is
'A step of a purge: no more deliveries are made of its events. Returns how many events that concerned.';
comment on function webhook.purge_events is
'A step of a purge: removes the events and keys in the next range of ids. Returns how many, and after which id to go on; null when that was all.';
comment on function webhook.purge_endpoint is
'A step of a purge: cancels an endpoint''s unfinished deliveries of its events. Returns how many; 0 when that was all.';
comment on function webhook.purge_answers is
'A step of a purge: clears what receivers answered from the attempts in the next range. Returns how many, and after which id to go on; null when that was all.';
comment on function webhook.drain_workers is
'Asks one worker, or with null all there are, to end as SIGTERM would. Returns whom it asked.';
comment on function webhook.tail_attempts is
'Attempts recorded since the call that returned this cursor, and the next cursor, as JSON; with a null cursor none, from now on.';
comment on function webhook.look_at_backlog is
'How many deliveries wait: counted while they are few, then an estimate.';
comment on function webhook.look_at_endpoints is
'The endpoints whose deliveries have been due for longest or fail most, as JSON, at a bounded cost.';

comment on function webhook.claim is
'Leases the next due deliveries to a worker, at most rows_max and bytes_max of payload, and returns them as one JSON document.';
comment on function webhook.record is
'Writes what became of claimed deliveries, where the claim still holds them. Returns how many rows that changed; the others were fenced off.';
comment on function webhook.extend is
'Extends the leases of these claims. Returns those that are still the worker''s.';
comment on function webhook.plan_again is
'Plans one more send of a claimed delivery whose request was written on a connection that had been closed. Returns its moment in Unix seconds, null if there is none soon.';
comment on function webhook.withhold_endpoint is
'Pauses an endpoint whose keys a worker cannot unseal. True if it was enabled.';
comment on function webhook.has_due is
'Whether anything could be sent now, or as soon as its endpoint''s rate allows.';
comment on function webhook.reap is
'Takes back what expired leases hold; the attempts count. Returns how many deliveries.';
comment on function webhook.maintain is
'Does the housekeeping that is due. Returns what was done, as JSON.';
comment on function webhook.sample_queue is
'What the queue looks like, as JSON, at a bounded cost.';
comment on function webhook.report_worker is
'Writes down what a worker says of itself. Returns whether it was asked to drain.';
comment on function webhook.forget_worker is
'Removes a worker that has ended from the list.';

-- What is read: docs/reference/views.md is made of it, and `\d+ webhook.deliveries` shows it in psql.

comment on view webhook.endpoints is 'Endpoints: what somebody has set, and how each is doing.';
comment on column webhook.endpoints.id is 'What commands and functions name it by.';
comment on column webhook.endpoints.tenant is 'Whose events it gets; empty: those of the empty tenant.';
comment on column webhook.endpoints.url is 'Where it delivers to.';
comment on column webhook.endpoints.event_types is 'Types and patterns that it subscribes to; empty: every type but operational events, as for *.';
comment on column webhook.endpoints.state is 'enabled, paused or disabled.';
comment on column webhook.endpoints.state_reason is 'Why it is paused or disabled.';
comment on column webhook.endpoints.rate is 'At most so many requests a second, over all workers; null: no limit.';
comment on column webhook.endpoints.burst is 'So many may go at once under a rate.';
comment on column webhook.endpoints.max_in_flight is 'At most so many deliveries are out at once, over all workers.';
comment on column webhook.endpoints.timeout_seconds is 'The deadline of a whole request.';
comment on column webhook.endpoints.circuit is 'closed, open, or half_open: its probe is out.';
comment on column webhook.endpoints.created_at is 'When it was registered.';
comment on column webhook.endpoints.in_flight is 'Deliveries that workers have now.';
comment on column webhook.endpoints.retry_seconds is 'The delay after each failed attempt; one failure more, and a delivery is dead.';
comment on column webhook.endpoints.headers is 'Custom headers. They may hold credentials: webhook_reader may not read them.';
comment on column webhook.endpoints.not_before is 'Nothing is sent until then, by Retry-After or an open circuit; null: nothing of the kind.';
comment on column webhook.endpoints.failing_since is 'Nothing but failures since then; null: its last outcome was none.';
comment on column webhook.endpoints.recovering_since is 'Its circuit has closed then, and its rate is growing again; null: it is not recovering.';
comment on column webhook.endpoints.transport is 'How workers reach it: a name in their transports file, or default.';

comment on view webhook.events is 'What was enqueued. An event goes when its retention is over, unless a delivery needs it.';
comment on column webhook.events.id is 'Rises, but is seen at the commit only: a higher one may be seen first. The webhook-id ends with it.';
comment on column webhook.events.tenant is 'Whose it is.';
comment on column webhook.events.event_type is 'Like order.created.';
comment on column webhook.events.created_at is 'When its transaction began.';
comment on column webhook.events.content_type is 'What the request says of the payload.';
comment on column webhook.events.payload is 'What is sent, byte for byte.';
comment on column webhook.events.payload_bytes is 'Its size in UTF-8.';
comment on column webhook.events.operational is 'Enqueued by the system itself, about an endpoint or a delivery.';
comment on column webhook.events.traceparent is 'The trace that it belongs to, as W3C Trace Context; null: none.';
comment on column webhook.events.tracestate is 'What goes with that; null: none.';

comment on view webhook.deliveries is 'One event for one endpoint. It reads every place where a delivery may be: name an id, or expect to wait.';
comment on column webhook.deliveries.id is 'Rises in the order of making.';
comment on column webhook.deliveries.event_id is 'Its event.';
comment on column webhook.deliveries.endpoint_id is 'Its endpoint.';
comment on column webhook.deliveries.tenant is 'Of both.';
comment on column webhook.deliveries.event_type is 'Of the event; null: the event is gone.';
comment on column webhook.deliveries.state is 'pending, held, in_flight, delivered, dead or cancelled. held: its endpoint is not enabled, or it was set aside.';
comment on column webhook.deliveries.attempts is 'So many were made, over all retries by hand; one that is under way counts.';
comment on column webhook.deliveries.next_attempt_at is 'When it is due; infinity: it was set aside; null: it is in flight or finished.';
comment on column webhook.deliveries.created_at is 'That of its event.';
comment on column webhook.deliveries.finished_at is 'When it was delivered, dead or cancelled.';
comment on column webhook.deliveries.last_status is 'The HTTP status of its last attempt; null: there was none.';
comment on column webhook.deliveries.last_error is 'Why its last attempt failed, or it was cancelled: an outcome, and after a colon words for people.';

comment on view webhook.attempts is 'Every HTTP request, and every lease that expired before anybody said how its request ended.';
comment on column webhook.attempts.delivery_id is 'The delivery.';
comment on column webhook.attempts.event_id is 'Its event.';
comment on column webhook.attempts.endpoint_id is 'Its endpoint.';
comment on column webhook.attempts.attempt is 'Of this delivery, from 1; retries by hand count on.';
comment on column webhook.attempts.started_at is 'When it began, by the database''s clock.';
comment on column webhook.attempts.duration_seconds is 'How long it took.';
comment on column webhook.attempts.outcome is 'ok, http_status, timeout and so on.';
comment on column webhook.attempts.status is 'Of the response; null: there was no response.';
comment on column webhook.attempts.response is 'The beginning of the response''s body, at most 1,024 bytes; null: it had none.';
comment on column webhook.attempts.error is 'What went wrong, in words for people.';
comment on column webhook.attempts.worker is 'The worker that made it, or reaper.';

comment on view webhook.jobs is 'Bulk changes of deliveries, and how far each is.';
comment on column webhook.jobs.id is 'What commands and functions name it by.';
comment on column webhook.jobs.action is 'retry, cancel, hold or release.';
comment on column webhook.jobs.state is 'running, paused, done or cancelled.';
comment on column webhook.jobs.filters is 'Which deliveries it is about, as for matching_pending.';
comment on column webhook.jobs.rate is 'So many become due a second; null: as fast as it goes.';
comment on column webhook.jobs.total is 'So many matched when it was created.';
comment on column webhook.jobs.done is 'So many are changed.';
comment on column webhook.jobs.skipped is 'So many could not be changed.';
comment on column webhook.jobs.skipped_because is 'Reasons, and how many each.';
comment on column webhook.jobs.actor is 'Who created it.';
comment on column webhook.jobs.reason is 'Why.';
comment on column webhook.jobs.created_at is 'What matched then is what it is about.';
comment on column webhook.jobs.stepped_at is 'When a worker last did some of it.';
comment on column webhook.jobs.finished_at is 'When it was done or cancelled.';
comment on column webhook.jobs.forced is 'A retry of what was delivered, too.';

comment on view webhook.endpoint_keys is 'Signing keys without their secrets, those that have expired included.';
comment on column webhook.endpoint_keys.id is 'The key.';
comment on column webhook.endpoint_keys.endpoint_id is 'The endpoint whose requests it signs.';
comment on column webhook.endpoint_keys.scheme is 'v1 (HMAC-SHA256) or v1a (Ed25519).';
comment on column webhook.endpoint_keys.sealed_with is 'The name of the key-encryption key; null: it is stored as it is.';
comment on column webhook.endpoint_keys.public_key is 'What receivers verify v1a with, 32 bytes; null: v1 has none.';
comment on column webhook.endpoint_keys.created_at is 'When it began to sign.';
comment on column webhook.endpoint_keys.expires_at is 'When it ceases to sign; null: no end is set.';

-- What can be set for a whole database: docs/reference/settings.md has it.

comment on column webhook.meta.payload_bytes_max is 'A payload with more bytes is refused.';
comment on column webhook.meta.fan_out_max is 'The deliveries of an event for more endpoints are made by workers, and not by its producer.';
comment on column webhook.meta.circuit_failures is 'So many failures in a row open an endpoint''s circuit.';
comment on column webhook.meta.circuit_failure_ratio is 'So does this share of failures among the last twenty attempts or so, of which newer ones weigh more.';
comment on column webhook.meta.circuit_pause_min is 'An open circuit sends nothing for so long, give or take a fifth; twice as long after each opening.';
comment on column webhook.meta.circuit_pause_max is 'And never for longer than this, give or take a fifth.';
comment on column webhook.meta.disable_after is 'An endpoint that has done nothing but fail for so long is disabled.';
