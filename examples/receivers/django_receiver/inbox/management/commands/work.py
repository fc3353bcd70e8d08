import json
import logging
import time
from datetime import timedelta

from django.core.management.base import BaseCommand
from django.db import Error, connection, transaction
from django.db.models import F
from django.utils.timezone import now

from inbox.models import Balance, Event


class Command(BaseCommand):
    help = "Work off the inbox, for ever. Any number of processes may do so at once."

    def handle(self, **_options: object) -> None:
        while True:
            try:
                while work_once():
                    pass
                Event.objects.filter(done_at__lt=now() - timedelta(days=30)).delete()
            except Error:  # the database is away: what is stored waits
                logging.exception("the inbox waits")
                connection.close()  # the next query opens another
            time.sleep(0.5)


@transaction.atomic
def work_once() -> bool:
    """Handle one event: its effect and its mark are committed together. Return whether there was one."""
    due = Event.objects.filter(done_at=None, retry_at__lte=now()).order_by("retry_at")
    event = due.select_for_update(skip_locked=True).first()  # SQLite has no such locks, and needs none: one writes at a time
    if event is None:
        return False
    try:
        with transaction.atomic():
            handle(json.loads(event.payload))
        event.done_at = now()
    except Exception:
        logging.exception("event %s is tried again in a minute", event.webhook_id)
        event.retry_at = now() + timedelta(minutes=1)
    event.save()
    return True


def handle(payload: dict) -> None:
    """What this receiver is for. Done twice, it would be wrong."""
    Balance.objects.get_or_create(account=payload["account"])
    Balance.objects.filter(account=payload["account"]).update(cents=F("cents") + payload["cents"])
