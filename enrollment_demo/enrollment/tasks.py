"""What the enrollment service's Celery workers do."""

from typing import Any

from celery import shared_task
from celery.exceptions import Retry

from enrollment_demo.enrollment.children import ServiceRefused, ServiceUnavailable, take_place
from enrollment_demo.enrollment.models import Course, Enrollment, SectionImport
from idempotency.jobs import job, step
from idempotency.keys import current_key


@shared_task  # type: ignore[untyped-decorator]
def import_section(section_import: int) -> dict[str, Any]:
    """Enrolls a section's students, a step each: a worker that dies is not missed for long, and
    no student is enrolled twice. The result says who got in, and who was refused and why."""
    section = SectionImport.objects.select_related("course").get(pk=section_import)
    told = []
    # A step is named by its place: names of students hold characters that keys may not.
    for number, student in enumerate(section.students, 1):
        told.append(step(f"student.{number}", enroll, student, section.course))
        job.progress(number, len(section.students))
    return {
        "course": section.course.code,
        "enrolled": [each["student"] for each in told if "code" not in each],
        "refused": [each for each in told if "code" in each],
    }


def enroll(student: str, course: Course) -> dict[str, str]:
    """One student's step: a refusal is its result, too, or the next attempt might get another."""
    try:
        place = take_place(student, course)
    except ServiceRefused as refusal:
        return {"student": student, "code": refusal.code, "detail": refusal.words}
    except ServiceUnavailable as error:
        # The job is handed back; its next attempt goes on with this step, under the same key.
        raise Retry(str(error)) from error
    # The step's transaction begins here, so none was open during the calls.
    Enrollment.objects.create(
        student=student, course=course, idempotency_key=current_key(), **place
    )
    return {"student": student}
