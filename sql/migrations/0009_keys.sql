-- Signing keys may be sealed, and asymmetric: then the public half is kept where everybody may read it.
alter table webhook.endpoint_key add column public_key bytea check (octet_length(public_key) = 32);
alter table webhook.endpoint_key add constraint endpoint_key_public check ((public_key is not null) = (scheme = 'v1a'));
