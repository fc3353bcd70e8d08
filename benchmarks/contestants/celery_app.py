"""Celery with Redis and requests, on gevent, which its documentation advises for work that waits: 64 greenlets.

BROKER=redis://… python -m celery --app benchmarks.contestants.celery_app worker --pool gevent --concurrency 64
"""

import os

import requests
from celery import Celery
from requests.adapters import HTTPAdapter

from benchmarks.contestants.signed import signed_headers

LANES = 64
app = Celery("contestant", broker=os.environ.get("BROKER", ""))
app.conf.update(task_ignore_result=True, task_acks_late=True, worker_hijack_root_logger=False)
session = requests.Session()
session.mount("http://", HTTPAdapter(pool_connections=1, pool_maxsize=LANES))


@app.task(name="deliver", acks_late=True)
def deliver(url: str, message_id: str, payload: str) -> None:
    """Sign and send; an error is Celery's to record."""
    session.post(url, data=payload.encode(), headers=signed_headers(message_id, payload), timeout=15).raise_for_status()
