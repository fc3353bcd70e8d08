"""What a shop does with the endpoints that its customers enter on a page of theirs."""

from worker.endpoints import Endpoints, RegisteredEndpoint


async def add_endpoint(dsn: str, customer: str, url: str) -> str:
    """Register where a customer wants its orders, and return the key, to be shown to it once.

    What may not be an endpoint raises EndpointRefusedError, whose text is for whoever has
    typed it: a private address, a port that is no web server's, no URL at all.
    """
    async with Endpoints(dsn, actor="shop") as endpoints:
        created = await endpoints.create(
            url, tenant=customer, event_types=["order.*"], rate=50, reason="by the customer"
        )
    return created.key


async def in_trouble(dsn: str, customer: str) -> list[RegisteredEndpoint]:
    """Return those of a customer's endpoints that fail, or are paused or disabled."""
    async with Endpoints(dsn, actor="shop") as endpoints:
        page = await endpoints.list(tenant=customer)
    return [each for each in page.items if each.failing_since or each.state != "enabled"]
