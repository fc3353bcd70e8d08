"""A till: one process of the shop, which serves one customer after the other.

    python -m benchmarks.ticket_sale.till NUMBER TILLS ORDERS ORDERS_A_SECOND SECONDS_MAX LOG

It calls what the shop's view calls, without HTTP in between. It prints a line when it is ready, and then waits for one: the
moment of the beginning, in monotonic seconds. Customers come at an even pace; who comes while another is served waits. Before
every fiftieth comes one whose card is refused. When all of its orders are sold, or after so many seconds, it closes, and says
how many cards were refused. A line of its log is an order that was committed: its number, its event's, and the monotonic
seconds just before the transaction.
"""

import sys
import time
from pathlib import Path

import django

from benchmarks.ticket_sale.evidence import Sale, write_sales

REFUSED_EVERY = 50


def serve(number: int, tills: int, orders: int, per_second: float, seconds_max: float) -> tuple[list[Sale], int]:
    """Sell this till's seats; return the orders, and how many cards were refused."""
    from benchmarks.ticket_sale.shop.sale import REFUSED_CARD, CardRefusedError, sell

    sales: list[Sale] = []
    refused = 0
    print("ready", flush=True)
    began = float(sys.stdin.readline())
    for nth in range(orders):
        time.sleep(max(0.0, began + nth / per_second - time.monotonic()))
        if time.monotonic() > began + seconds_max:
            break
        seat, buyer = number + nth * tills, f"customer {nth} of till {number}"
        if nth % REFUSED_EVERY == 0:
            try:
                sell(seat, buyer, REFUSED_CARD)
            except CardRefusedError:
                refused += 1
        at = time.monotonic()
        order, event = sell(seat, buyer, "good")
        sales.append(Sale(order, event, at))
    return sales, refused


def main() -> None:
    """Open the till."""
    number, tills, orders, per_second, seconds_max, log = sys.argv[1:]
    django.setup()
    sales, refused = serve(int(number), int(tills), int(orders), float(per_second), float(seconds_max))
    write_sales(Path(log), sales)
    print(refused, flush=True)


if __name__ == "__main__":
    main()
