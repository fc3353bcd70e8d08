from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook, WebhookVerificationError

from inbox.models import Event

webhook = Webhook(settings.WEBHOOK_KEY)


@csrf_exempt  # it comes from a server: the signature says from which
@require_POST
def receive(request: HttpRequest) -> HttpResponse:
    try:
        body = request.body  # the raw bytes: parsed and written again, they would not verify
    except RequestDataTooBig:  # longer than DATA_UPLOAD_MAX_MEMORY_SIZE
        return HttpResponse("the body is too long", status=413)
    try:
        webhook.verify(body, dict(request.headers), json_parse=False)  # it may be something else
    except (WebhookVerificationError, ValueError):  # ValueError: it is not even well-formed
        return HttpResponse("the signature or the timestamp is wrong", status=400)
    # The same id again changes nothing, and is answered as the first was.
    Event.objects.bulk_create([Event(webhook_id=request.headers["webhook-id"], payload=body.decode())], ignore_conflicts=True)
    return HttpResponse(status=204)
