"""What the shop keeps."""

from django.db import models


class Order(models.Model):
    """A seat, sold to somebody. No seat is sold twice: the database sees to it."""

    seat = models.IntegerField(unique=True)
    buyer = models.CharField(max_length=100)
    price_cents = models.IntegerField()
    placed_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"order {self.pk}: seat {self.seat}"
