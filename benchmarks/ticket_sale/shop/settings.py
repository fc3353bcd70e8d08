"""The project's settings. `DATABASE_URL` names the database, as it does for the workers."""

import os

from psycopg.conninfo import conninfo_to_dict

_POSTGRES = conninfo_to_dict(os.environ["DATABASE_URL"])

SECRET_KEY = "it signs nothing here: there are no sessions and no forms"
INSTALLED_APPS = ["benchmarks.ticket_sale.shop"]
ROOT_URLCONF = "benchmarks.ticket_sale.shop.urls"
ALLOWED_HOSTS = ["127.0.0.1"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _POSTGRES["dbname"],
        "USER": _POSTGRES.get("user", ""),
        "PASSWORD": _POSTGRES.get("password", ""),
        "HOST": _POSTGRES.get("host", ""),
        "PORT": str(_POSTGRES.get("port", "")),
        "CONN_MAX_AGE": None,  # a connection is kept: to open one costs more than an order
    }
}
