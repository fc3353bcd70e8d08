"""Where the views are."""

from django.urls import path

from django_shop import views

urlpatterns = [
    path("order", views.order_form),
    path("api/orders", views.orders),
]
