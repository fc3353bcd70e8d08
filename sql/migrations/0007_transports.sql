-- How an endpoint is reached that needs more than TLS with public roots: the name of an entry in the workers' own configuration.
alter table webhook.endpoint
    add column transport text not null default 'default' check (transport ~ '^[a-z0-9][a-z0-9_.-]{0,62}$');
