-- An endpoint in the queue says how many due rows it is known to have, up to a quantum; two kinds are told apart: one that
-- has just become due (1 row is expected), and one that had its helping and has more (2 and up).
drop index webhook.endpoint_sched_tenant_turn;
create index endpoint_sched_tenant_turn on webhook.endpoint_sched (tenant_no, least(expected, 2), turn)
    where turn is not null and state = 'enabled';
