-- What `webhook-worker migrate` runs around the numbered migrations. :words are filled in by worker/store/migrate.py.

-- name: migrate_begin
-- One migrator at a time; the lock goes with the transaction, so it also works through PgBouncer.
select pg_advisory_xact_lock(hashtext('webhook-worker migrate'));
create schema if not exists webhook;
create table if not exists webhook.migration (
    number     int         primary key,
    name       text        not null,
    applied_at timestamptz not null default now(),
    applied_by text        not null
);

-- name: migrate_applied
-- The last migration that was applied.
select coalesce(max(number), 0) from webhook.migration

-- name: migrate_mark
-- Remembers one migration.
insert into webhook.migration (number, name, applied_by) values (:number, ':name', ':version');
update webhook.meta set schema_version = :number;

-- name: migrate_end
-- Remembers the functions' text, and makes the partitions that are due.
update webhook.meta set functions_hash = ':hash';
select webhook.ensure_partitions();

-- name: migrate_exists
-- Whether there is anything of ours in this database.
select to_regclass('webhook.meta') is not null

-- name: migrate_history
-- The migrations of this database.
select number, name, applied_at, applied_by from webhook.migration order by number
