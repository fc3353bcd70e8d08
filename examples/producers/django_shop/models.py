"""The shop's tables."""

from django.db import models


class Item(models.Model):
    """What can be ordered."""

    name = models.TextField(primary_key=True)
    in_stock = models.IntegerField()

    class Meta:
        """What holds in the database has a name, by which a refusal is known."""

        db_table = "items"
        constraints = (
            models.CheckConstraint(
                condition=models.Q(in_stock__gte=0), name="items_in_stock_check"
            ),
        )

    def __str__(self) -> str:
        return self.name


class Order(models.Model):
    """One item, ordered by a customer."""

    customer = models.TextField()
    item = models.ForeignKey(Item, on_delete=models.PROTECT, db_column="item")
    shipped_at = models.DateTimeField(null=True)

    class Meta:
        """Named as the other examples name it."""

        db_table = "orders"

    def __str__(self) -> str:
        return f"order {self.pk}"
