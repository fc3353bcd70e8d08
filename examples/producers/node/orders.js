// An order and its event in one transaction, with node-postgres.

/** Run `work(client)` in a transaction; whatever it throws rolls back, and is thrown again. */
async function transaction(pool, work) {
  const client = await pool.connect();
  // A connection that is lost fails its query. But without a listener, it would end the process.
  const ignore = () => {};
  client.on("error", ignore);
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    client.release();
    return result;
  } catch (error) {
    client.release(error); // closes the connection, which rolls back, whatever state it is in
    throw error;
  } finally {
    client.off("error", ignore);
  }
}

/**
 * Sell one item to a customer, tell the customer's endpoints, and return the order's id.
 *
 * An item that is sold out throws an error with code 23514: then there is neither an order nor
 * an event.
 */
export function placeOrder(pool, customer, item) {
  return transaction(pool, async (client) => {
    const inserted = await client.query(
      "INSERT INTO orders (customer, item) VALUES ($1, $2) RETURNING id",
      [customer, item],
    );
    const order = Number(inserted.rows[0].id); // a bigint comes as a string
    await client.query("SELECT webhook.enqueue('order.created', $1, tenant => $2)", [
      JSON.stringify({ order, customer, item }),
      customer,
    ]);
    // Last, since other buyers of this item wait for its row until the commit.
    await client.query("UPDATE items SET in_stock = in_stock - 1 WHERE name = $1", [item]);
    return order;
  });
}

/**
 * Note that an order was shipped, and tell its customer.
 *
 * The scanner at the gate repeats itself when it gets no answer. The event's idempotency key
 * says that there is one shipping of an order, so its customer is told once.
 */
export function shipOrder(pool, order) {
  return transaction(pool, async (client) => {
    await client.query(
      `WITH shipped AS (
         UPDATE orders SET shipped_at = coalesce(shipped_at, now()) WHERE id = $1
         RETURNING id, customer, shipped_at
       )
       SELECT webhook.enqueue(
         'order.shipped',
         json_build_object('order', id, 'shipped_at', shipped_at),
         tenant => customer,
         idempotency_key => 'order.shipped:' || id
       )
       FROM shipped`,
      [order],
    );
  });
}
