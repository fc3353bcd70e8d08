"""Two ways into the shop: a form for people, and an async view for programs."""

from asgiref.sync import sync_to_async
from django import forms
from django.db import transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

from django_shop.models import Item, Order
from django_shop.orders import SoldOut, place_order

ORDERS_PER_ITEM_MAX = 2


class OrderForm(forms.Form):
    """Who orders what."""

    customer = forms.CharField()
    item = forms.ModelChoiceField(Item.objects.all())


@transaction.atomic
def order_form(request: HttpRequest) -> HttpResponse:
    """Show the form, or place an order; a refused one leaves no order and no event."""
    form = OrderForm(request.POST or None)
    if form.is_valid():
        customer, item = form.cleaned_data["customer"], form.cleaned_data["item"]
        try:
            place_order(customer, item.name)
        except SoldOut as sold_out:
            form.add_error("item", str(sold_out))
        else:
            placed = Order.objects.filter(customer=customer, item=item).count()
            if placed <= ORDERS_PER_ITEM_MAX:
                return HttpResponseRedirect("/thanks")
            form.add_error("item", f"No more than {ORDERS_PER_ITEM_MAX} for each customer.")
    response = render(request, "django_shop/order.html", {"form": form})
    if form.errors:
        # A transaction is rolled back by an exception, and a response is none: say it. Last,
        # since Django allows no more queries after this.
        transaction.set_rollback(True)
    return response


# What is exempt from CSRF is for programs, which bring a token in a header, not a browser's
# cookie. Whoever checks that token (a middleware of yours) also says who the customer is.
@csrf_exempt
@require_POST
async def orders(request: HttpRequest) -> JsonResponse:
    """Place an order.

    A transaction of Django's belongs to one connection, and that to one thread. So all of it
    is one synchronous function: never `async with`, never one sync_to_async per statement.
    """
    return await sync_to_async(place_order_of)(request.POST)


def place_order_of(data: QueryDict) -> JsonResponse:
    """Place the order that a program has posted, and answer it."""
    form = OrderForm(data)
    if not form.is_valid():
        return JsonResponse({"errors": form.errors}, status=400)
    try:
        order = place_order(form.cleaned_data["customer"], form.cleaned_data["item"].name)
    except SoldOut as sold_out:
        return JsonResponse({"error": str(sold_out)}, status=409)
    return JsonResponse({"order": order.pk}, status=201)
