"""A Django project whose only application is the example, with the settings of a new one as far as they matter here.

With DATABASE_URL in the environment, and the directories of the example and of `worker` in PYTHONPATH: `application` is for
uvicorn. As a script it does what no view does, and prints which constraint an unknown item breaks.
"""

import os

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.db import IntegrityError, connection, transaction
from psycopg.conninfo import conninfo_to_dict

from worker.producer import enqueue

WHERE = conninfo_to_dict(os.environ["DATABASE_URL"])
NAMES = {"NAME": "dbname", "USER": "user", "PASSWORD": "password", "HOST": "host", "PORT": "port"}

settings.configure(
    ALLOWED_HOSTS=["127.0.0.1"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            **{ours: WHERE.get(theirs) or "" for ours, theirs in NAMES.items()},
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django_shop"],
    MIDDLEWARE=["django.middleware.csrf.CsrfViewMiddleware"],
    ROOT_URLCONF="django_shop.urls",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}],
    USE_TZ=True,
)
django.setup()

application = get_asgi_application()


def main() -> None:
    """Execute a call of worker.producer on Django's own connection, and order what is no item."""
    from django_shop.orders import place_order

    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(*enqueue("shop.closed", {"until": 9}, tenant="acme"))
    try:
        place_order("acme", "unicorn")
    except IntegrityError as error:
        print(error.__cause__.diag.constraint_name)  # noqa: T201 - to our parent


if __name__ == "__main__":
    main()
