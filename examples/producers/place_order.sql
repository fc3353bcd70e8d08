-- An order and its event in one transaction, with psql:
--   psql "$DATABASE_URL" -v customer=acme -v item=ticket -f place_order.sql

-- Without this, psql goes on after an error; the COMMIT of a failed transaction is a ROLLBACK.
\set ON_ERROR_STOP on

BEGIN;

WITH placed AS (
    INSERT INTO orders (customer, item) VALUES (:'customer', :'item')
    RETURNING id, customer, item
)
SELECT webhook.enqueue(
    'order.created',
    json_build_object('order', id, 'customer', customer, 'item', item),
    tenant => customer
)
FROM placed;

-- An item that is sold out fails here: then there is neither an order nor an event.
UPDATE items SET in_stock = in_stock - 1 WHERE name = :'item';

COMMIT;
