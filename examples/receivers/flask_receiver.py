"""A receiver on Flask and SQLite: verify, store once, answer; another process does the work.

pip install flask standardwebhooks
export WEBHOOK_KEY=whsec_… DATABASE=receiver.db
flask --app flask_receiver run --port 3000
flask --app flask_receiver work
"""

import json
import os
import sqlite3
import time
from contextlib import closing

from flask import Flask, request
from standardwebhooks import Webhook, WebhookVerificationError

TABLES = """
create table if not exists inbox (
    webhook_id text primary key,
    payload    text not null,
    retry_at   real not null default 0,
    done_at    real
);
create index if not exists inbox_due on inbox (retry_at) where done_at is null;
create index if not exists inbox_done on inbox (done_at);
create table if not exists balance (account text primary key, cents integer not null);
"""

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = 1_000_000  # what is longer is answered with 413
webhook = Webhook(os.environ["WEBHOOK_KEY"])


def connect() -> sqlite3.Connection:
    connection = sqlite3.connect(os.environ["DATABASE"], timeout=10)  # seconds, since only one can write at a time
    connection.execute("pragma journal_mode = wal")  # who writes does not block who reads
    connection.executescript(TABLES)
    return connection


@app.post("/hook")
def receive() -> tuple[str, int]:
    body = request.get_data()  # the raw bytes: parsed and written again, they would not verify
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)  # it may be something else
    except (WebhookVerificationError, ValueError):  # ValueError: it is not even well-formed
        return "the signature or the timestamp is wrong", 400
    with closing(connect()) as connection, connection:  # the second one commits
        # The same id again changes nothing, and is answered as the first was.
        connection.execute(
            "insert into inbox (webhook_id, payload) values (?, ?) on conflict do nothing",
            (request.headers["webhook-id"], body.decode()),
        )
    return "", 204


@app.cli.command("work")
def work() -> None:
    """Work off the inbox, for ever. Any number of processes may do so at once."""
    while True:
        try:
            with closing(connect()) as connection:
                while work_once(connection):
                    pass
                with connection:
                    connection.execute("delete from inbox where done_at < ?", (time.time() - 30 * 86_400,))
        except sqlite3.Error:  # locked for long, or the disk is full: what is stored waits
            app.logger.exception("the inbox waits")
        time.sleep(0.5)


def work_once(connection: sqlite3.Connection) -> bool:
    """Handle one event: its effect and its mark are committed together. Return whether there was one."""
    event = connection.execute(
        "select webhook_id, payload from inbox where done_at is null and retry_at <= ? order by retry_at limit 1",
        (time.time(),),
    ).fetchone()
    if event is None:
        return False
    webhook_id, payload = event
    try:
        with connection:
            first = connection.execute(
                "update inbox set done_at = ? where webhook_id = ? and done_at is null", (time.time(), webhook_id)
            )
            if first.rowcount:  # else another process was faster
                handle(connection, json.loads(payload))
    except Exception:
        app.logger.exception("event %s is tried again in a minute", webhook_id)
        with connection:
            connection.execute("update inbox set retry_at = ? where webhook_id = ?", (time.time() + 60, webhook_id))
    return True


def handle(connection: sqlite3.Connection, payload: dict) -> None:
    """What this receiver is for. Done twice, it would be wrong."""
    connection.execute(
        "insert into balance values (?, ?) on conflict (account) do update set cents = cents + excluded.cents",
        (payload["account"], payload["cents"]),
    )
