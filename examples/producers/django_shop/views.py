"""Two ways into the shop: a form for people, and an async view for programs."""

from asgiref.sync import sync_to_async
from django import forms
from django.db import IntegrityError, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.views.decorators.http import require_POST

from django_shop.models import Item, Order
from django_shop.orders import place_order

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
        place_order(customer, item.name)
        if Order.objects.filter(customer=customer, item=item).count() <= ORDERS_PER_ITEM_MAX:
            return HttpResponseRedirect("/thanks")
        form.add_error("item", f"No more than {ORDERS_PER_ITEM_MAX} for each customer.")
    response = HttpResponse(form.as_p())
    if form.errors:
        # A transaction is rolled back by an exception, and a response is none: say it. Last,
        # since Django allows no more queries after this.
        transaction.set_rollback(True)
    return response


@require_POST
async def orders(request: HttpRequest) -> JsonResponse:
    """Place an order.

    A transaction of Django's belongs to one connection, and that to one thread. So all of it
    is one synchronous function: never `async with`, never one sync_to_async per statement.
    """
    customer, item = request.POST["customer"], request.POST["item"]
    try:
        order = await sync_to_async(place_order)(customer, item)
    except IntegrityError:
        return JsonResponse({"error": f"{item} is sold out"}, status=409)
    return JsonResponse({"order": order.pk}, status=201)
