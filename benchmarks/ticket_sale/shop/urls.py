"""What can be asked for."""

from django.urls import path

from benchmarks.ticket_sale.shop.views import orders

urlpatterns = [path("orders", orders)]
