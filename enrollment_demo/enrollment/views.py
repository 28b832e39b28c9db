"""`/api/enrollments/`"""

from django.conf import settings
from rest_framework.serializers import BaseSerializer

from enrollment_demo.enrollment.children import ask
from enrollment_demo.enrollment.models import Enrollment
from enrollment_demo.enrollment.serializers import EnrollmentSerializer
from enrollment_demo.rows import RowsViewSet, request_key
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin


class EnrollmentViewSet(IdempotencyMixin, RowsViewSet[Enrollment]):
    """Enrollments: a seat, an invoice, and only then a row of our own."""

    queryset = Enrollment.objects.select_related("course")
    serializer_class = EnrollmentSerializer
    filters = {"student": "student", "course": "course__code", "idempotency_key": "idempotency_key"}
    idempotency_policy = Policy(mismatch="lenient")

    def perform_create(self, serializer: BaseSerializer[Enrollment]) -> None:
        """Roster first, because it may refuse. A retry under the same key finds what it got."""
        student, course = serializer.validated_data["student"], serializer.validated_data["course"]
        seat = {"student": student, "course": course.code}
        invoice = seat | {"amount": str(course.price)}
        serializer.save(
            roster_entry=ask("roster", f"{settings.ROSTER_URL}/api/roster-entries/", seat),
            invoice=ask("billing", f"{settings.BILLING_URL}/api/invoices/", invoice),
            idempotency_key=request_key(self.request),
        )
