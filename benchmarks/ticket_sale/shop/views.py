"""The shop over HTTP: `POST /orders` with a JSON object of `seat`, `buyer` and `card`."""

import json

from django.db import IntegrityError
from django.http import HttpRequest, HttpResponse, HttpResponseNotAllowed, JsonResponse

from benchmarks.ticket_sale.shop.sale import CardRefusedError, sell


def orders(request: HttpRequest) -> HttpResponse:
    """Sell a seat: 201 with the order, 402 if the card is refused, 409 if the seat is taken."""
    if request.method != "POST":
        return HttpResponseNotAllowed(["POST"])
    wish = json.loads(request.body)
    try:
        order, _ = sell(int(wish["seat"]), str(wish["buyer"]), str(wish["card"]))
    except CardRefusedError:
        return JsonResponse({"error": "the card was refused"}, status=402)
    except IntegrityError:
        return JsonResponse({"error": "the seat is taken"}, status=409)
    return JsonResponse({"order": order}, status=201)
