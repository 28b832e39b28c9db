"""`/api/enrollments/`, the same under a lease, and `/api/section-imports/`"""

from typing import Any

from django.conf import settings
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.serializers import BaseSerializer

from enrollment_demo.enrollment.children import take_place
from enrollment_demo.enrollment.models import Enrollment, SectionImport
from enrollment_demo.enrollment.serializers import EnrollmentSerializer, SectionImportSerializer
from enrollment_demo.enrollment.tasks import import_section
from enrollment_demo.rows import RowsViewSet, request_key
from idempotency.jobs import start_job, step
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin


class EnrollmentViewSet(IdempotencyMixin, RowsViewSet[Enrollment]):
    """Enrollments: a seat, an invoice, and only then a row of our own."""

    queryset = Enrollment.objects.select_related("course")
    serializer_class = EnrollmentSerializer
    filters = {"student": "student", "course": "course__code", "idempotency_key": "idempotency_key"}
    refusals = {
        409: "Roster or billing has refused, with a code of its own.",
        503: "Roster or billing is out of reach.",
    }
    idempotency_policy = Policy(mismatch="lenient")

    def perform_create(self, serializer: BaseSerializer[Enrollment]) -> None:
        """One transaction, from the claim of the key to the row."""
        place = take_place(**serializer.validated_data)
        serializer.save(idempotency_key=request_key(self.request), **place)


class LeasedEnrollmentViewSet(EnrollmentViewSet):
    """The same, by a lease in place of one long transaction.

    The claim commits before anything else, and is renewed while we work. So no transaction stays
    open while roster and billing are called, however long they take; the price is three commits
    in place of one. Where the process dies, the atomic key is free at once, this one when its
    lease is over. Both ask roster and billing again under the same child keys.
    """

    idempotency_policy = Policy(mismatch="lenient", execution="leased")

    def perform_create(self, serializer: BaseSerializer[Enrollment]) -> None:
        """A step ends the transaction that looked up the course, and commits by itself."""
        key = request_key(self.request)

        def enroll() -> int:
            place = take_place(**serializer.validated_data)
            return serializer.save(idempotency_key=key, **place).pk

        # From the database, because a step that an earlier attempt has done is not run again.
        serializer.instance = self.get_queryset().get(pk=step("enroll", enroll))


class NoBroker(APIException):
    """Nobody would carry the job out. Raised, so not remembered: the key stays free."""

    status_code = 503
    default_code = "no_broker"
    default_detail = "Sections are imported by workers: start this service with CELERY_BROKER_URL."


class SectionImportViewSet(IdempotencyMixin, RowsViewSet[SectionImport]):
    """Sections that are enrolled as a job, one student after the other."""

    queryset = SectionImport.objects.select_related("course")
    serializer_class = SectionImportSerializer
    filters = {"course": "course__code", "idempotency_key": "idempotency_key"}
    refusals = {503: NoBroker.default_detail}
    idempotency_policy = Policy(execution="job")

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        """Keeps the list, and has a worker take it from there; both or neither."""
        if not settings.CELERY_BROKER_URL:
            raise NoBroker
        serializer = self.get_serializer(data=request.data)
        serializer.is_valid(raise_exception=True)
        section = serializer.save(idempotency_key=request_key(request))
        return start_job(import_section, section_import=section.pk)
