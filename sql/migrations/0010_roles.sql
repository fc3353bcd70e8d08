-- Who was logged in, beside who it says it was: roles other than the owner reach the tables through functions only. Null: from before.
alter table webhook.audit add column login name;
alter table webhook.audit alter column login set default session_user;
