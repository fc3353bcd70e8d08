"""The least that Django needs. Yours has its own."""

import os

SECRET_KEY = "nothing is signed with it here"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
INSTALLED_APPS = ["inbox"]
ROOT_URLCONF = "inbox.urls"
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ["DATABASE"],
        "OPTIONS": {"transaction_mode": "IMMEDIATE"},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True

WEBHOOK_KEY = os.environ["WEBHOOK_KEY"]
