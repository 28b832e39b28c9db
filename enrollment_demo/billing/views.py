"""`/api/invoices/` and `/api/payments/`: where money moves, a key is required and strict."""

from datetime import timedelta

from enrollment_demo.billing.models import Invoice, Payment
from enrollment_demo.billing.serializers import InvoiceSerializer, PaymentSerializer
from enrollment_demo.rows import M, RowsViewSet
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin


class MoneyViewSet(IdempotencyMixin, RowsViewSet[M]):
    """A month of replies: a bank's retry may come long after the student has gone home."""

    idempotency_policy = Policy(mismatch="strict", required=True, ttl=timedelta(days=30))


class InvoiceViewSet(MoneyViewSet[Invoice]):
    """What students owe."""

    queryset = Invoice.objects.all()
    serializer_class = InvoiceSerializer
    filters = {"student": "student", "course": "course", "idempotency_key": "idempotency_key"}


class PaymentViewSet(MoneyViewSet[Payment]):
    """What they paid."""

    queryset = Payment.objects.all()
    serializer_class = PaymentSerializer
    filters = {"idempotency_key": "idempotency_key"}
