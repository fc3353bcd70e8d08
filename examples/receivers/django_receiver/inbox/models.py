from django.db import models
from django.utils.timezone import now


class Event(models.Model):
    """What was received, once for each webhook-id."""

    webhook_id = models.CharField(max_length=255, primary_key=True)
    payload = models.TextField()
    received_at = models.DateTimeField(default=now)
    retry_at = models.DateTimeField(default=now)
    done_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["retry_at"], name="inbox_due", condition=models.Q(done_at__isnull=True)),
            models.Index(fields=["done_at"], name="inbox_done"),
        ]


class Balance(models.Model):
    """What this receiver is for."""

    account = models.CharField(max_length=100, primary_key=True)
    cents = models.BigIntegerField(default=0)
