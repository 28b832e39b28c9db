"""The JSON of invoices and payments."""

from rest_framework import serializers

from enrollment_demo.billing.models import Invoice, Payment


class InvoiceSerializer(serializers.ModelSerializer[Invoice]):
    """What is owed."""

    class Meta:
        model = Invoice
        fields = ["id", "student", "course", "amount", "idempotency_key", "created"]
        read_only_fields = ["idempotency_key"]


class PaymentSerializer(serializers.ModelSerializer[Payment]):
    """What was paid."""

    class Meta:
        model = Payment
        fields = ["id", "invoice", "amount", "idempotency_key", "created"]
        read_only_fields = ["idempotency_key"]
