"""Plays Django's example through its own request handling; in a process of its own, since settings are made once in one.

python play_django_shop.py DSN, with the directories of the example and of `worker` in PYTHONPATH: prints the status of each
answer as JSON.
"""

import asyncio
import json
import sys

import django
from django.conf import settings
from django.db import connection, transaction
from django.test import AsyncClient, Client
from psycopg.conninfo import conninfo_to_dict

from worker.producer import enqueue


def set_up(dsn: str) -> None:
    """Make the settings of a project whose only application this is."""
    where = conninfo_to_dict(dsn)
    names = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}
    database = {ours: where.get(theirs) or "" for ours, theirs in names.items()}
    settings.configure(
        ALLOWED_HOSTS=["testserver"],
        DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", **database}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["django_shop"],
        ROOT_URLCONF="django_shop.urls",
        USE_TZ=True,
    )
    django.setup()


async def by_api(*items: str) -> list[int]:
    """Order these through the async view."""
    return [(await AsyncClient().post("/api/orders", {"customer": "acme", "item": item})).status_code for item in items]


def with_the_helper() -> None:
    """Execute a call of worker.producer on Django's own connection."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(*enqueue("shop.closed", {"until": 9}, tenant="acme"))


def main() -> None:
    """Order: by the form, once more than it allows; then through the async view, and what is sold out. And close."""
    set_up(sys.argv[1])
    by_form = [Client().post("/order", {"customer": "acme", "item": "ticket"}).status_code for _ in range(3)]
    answers = by_form + asyncio.run(by_api("ticket", "relic"))
    with_the_helper()
    print(json.dumps(answers))  # noqa: T201 - to our parent


if __name__ == "__main__":
    main()
