"""What students owe, and what they paid."""

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models


class Invoice(models.Model):
    """What one enrollment costs."""

    # No unique (student, course): it would hide the duplicates that the demo is there to show,
    # and one course may be invoiced in parts.
    student = models.CharField(max_length=64, db_index=True)
    course = models.CharField(max_length=16)
    amount = models.DecimalField(
        max_digits=10, decimal_places=2, validators=[MinValueValidator(Decimal(0))]
    )
    idempotency_key = models.CharField(max_length=255, blank=True, db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.amount} of {self.student} for {self.course}"


class Payment(models.Model):
    """Money towards an invoice."""

    invoice = models.ForeignKey(Invoice, on_delete=models.PROTECT, related_name="payments")
    amount = models.DecimalField(
        max_digits=10, decimal_places=2, validators=[MinValueValidator(Decimal("0.01"))]
    )
    idempotency_key = models.CharField(max_length=255, blank=True, db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.amount} towards invoice {self.invoice_id}"
