// A receiver on Node and Postgres: verify, store once, answer; the work comes after.
//
//     npm install
//     export WEBHOOK_KEY=whsec_… DATABASE_URL=postgresql://… PORT=3000
//     node receiver.js

import { createServer } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { Webhook } from "standardwebhooks";

const BYTES_MAX = 1_000_000;
const webhook = new Webhook(process.env.WEBHOOK_KEY);
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 5 });
pool.on("error", (error) => console.error("a connection was lost:", error.message));
// Of one that is in use its query tells. But without a listener, it would end the process.
pool.on("connect", (client) => client.on("error", () => {}));

await pool.query(`
    select pg_advisory_xact_lock(1);  -- two processes may start at once
    create table if not exists inbox (
        webhook_id  text        primary key,
        payload     text        not null,
        received_at timestamptz not null default now(),
        retry_at    timestamptz not null default now(),
        done_at     timestamptz
    );
    create index if not exists inbox_due on inbox (retry_at) where done_at is null;
    create index if not exists inbox_done on inbox (done_at);
    create table if not exists balance (account text primary key, cents bigint not null);
`);

async function receive(request) {
  const body = await rawBody(request); // parsed and written again, it would not verify
  if (!body) return [413, "the body is too long"];
  try {
    webhook.verify(body, request.headers, { jsonParse: false }); // it may be something else
  } catch {
    return [400, "the signature or the timestamp is wrong"];
  }
  // The same id again changes nothing, and is answered as the first was.
  await pool.query("insert into inbox (webhook_id, payload) values ($1, $2) on conflict do nothing", [
    request.headers["webhook-id"],
    body.toString(),
  ]);
  return [204, ""];
}

async function rawBody(request) {
  const parts = [];
  let bytes = 0;
  for await (const part of request) {
    bytes += part.length;
    if (bytes <= BYTES_MAX) parts.push(part); // the rest is read, so that the answer arrives, and not kept
  }
  return bytes <= BYTES_MAX ? Buffer.concat(parts) : null;
}

// Works off the inbox, for ever. Any number of processes may do so at once.
async function work() {
  for (;;) {
    try {
      while (await workOnce());
      await pool.query("delete from inbox where done_at < now() - interval '30 days'");
    } catch (error) {
      console.error("the inbox waits:", error.message); // the database is away: what is stored waits
    }
    await sleep(500);
  }
}

// Handles one event: its effect and its mark are committed together. Returns whether there was one.
async function workOnce() {
  const client = await pool.connect();
  try {
    await client.query("begin");
    const { rows } = await client.query(
      `select webhook_id, payload from inbox where done_at is null and retry_at <= now()
       order by retry_at limit 1 for update skip locked`,
    );
    for (const event of rows) {
      await client.query("savepoint event");
      try {
        await handle(client, JSON.parse(event.payload));
        await client.query("update inbox set done_at = now() where webhook_id = $1", [event.webhook_id]);
      } catch (error) {
        console.error(`event ${event.webhook_id} is tried again in a minute:`, error.message);
        await client.query("rollback to savepoint event");
        await client.query("update inbox set retry_at = now() + interval '1 minute' where webhook_id = $1", [event.webhook_id]);
      }
    }
    await client.query("commit");
    client.release();
    return rows.length > 0;
  } catch (error) {
    client.release(error); // what it was in the middle of ends with its connection
    throw error;
  }
}

// What this receiver is for. Done twice, it would be wrong.
async function handle(client, payload) {
  await client.query(
    "insert into balance values ($1, $2) on conflict (account) do update set cents = balance.cents + excluded.cents",
    [payload.account, payload.cents],
  );
}

createServer(async (request, response) => {
  const isHook = request.method === "POST" && request.url === "/hook";
  const [status, text] = isHook
    ? await receive(request).catch((error) => {
        console.error(error.message);
        return [500, "try again"]; // and the sender will
      })
    : [404, "there is nothing here"];
  response.writeHead(status).end(text);
}).listen(Number(process.env.PORT), "127.0.0.1");
work();
