"""A receiver on Django: verify, store once, answer; another process does the work. The app to copy is `inbox`.

pip install django standardwebhooks
export WEBHOOK_KEY=whsec_… DATABASE=receiver.db
python manage.py migrate
python manage.py runserver 3000
python manage.py work
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
    execute_from_command_line(sys.argv)
