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
        # With SQLite: else two that have read and want to write stop each other. They wait for so many seconds.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 10},
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_000_000

WEBHOOK_KEY = os.environ["WEBHOOK_KEY"]
