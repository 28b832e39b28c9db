"""`/api/roster-entries/`"""

from rest_framework.exceptions import APIException
from rest_framework.serializers import BaseSerializer

from enrollment_demo.roster.models import RosterEntry
from enrollment_demo.roster.serializers import RosterEntrySerializer
from enrollment_demo.rows import RowsViewSet
from idempotency.policy import Policy
from idempotency.views import IdempotencyMixin


class CourseFull(APIException):
    """The last seat is gone. Raised, so not remembered: a seat may be free at the next try."""

    status_code = 409
    default_code = "course_full"
    default_detail = "The course is full."


class RosterEntryViewSet(IdempotencyMixin, RowsViewSet[RosterEntry]):
    """Seats. A full course is a refusal, never an overbooking."""

    queryset = RosterEntry.objects.select_related("course")
    serializer_class = RosterEntrySerializer
    filters = {"student": "student", "course": "course__code", "idempotency_key": "idempotency_key"}
    refusals = {409: CourseFull.default_detail}
    idempotency_policy = Policy(mismatch="lenient")

    def perform_create(self, serializer: BaseSerializer[RosterEntry]) -> None:
        """Takes the seat first: who finds none writes nothing."""
        if not serializer.validated_data["course"].take_seat():
            raise CourseFull
        super().perform_create(serializer)
