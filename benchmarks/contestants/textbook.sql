-- The table that tutorials have: one row a webhook, its state in a column, a partial index over what is pending.
create schema if not exists textbook;
drop table if exists textbook.webhook;
create table textbook.webhook (
    id bigint generated always as identity primary key, url text not null, payload text not null,
    status text not null default 'pending', attempts int not null default 0, response_status int, delivered_at timestamptz
);
create index on textbook.webhook (id) where status = 'pending';
