import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Event",
            [
                ("webhook_id", models.CharField(max_length=255, primary_key=True, serialize=False)),
                ("payload", models.TextField()),
                ("received_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("retry_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("done_at", models.DateTimeField(null=True)),
            ],
            options={
                "indexes": [
                    models.Index(fields=["retry_at"], name="inbox_due", condition=models.Q(done_at__isnull=True)),
                    models.Index(fields=["done_at"], name="inbox_done"),
                ],
            },
        ),
        migrations.CreateModel(
            "Balance",
            [
                ("account", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("cents", models.BigIntegerField(default=0)),
            ],
        ),
    ]
