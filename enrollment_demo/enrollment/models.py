"""Courses with their price, who enrolled, and the sections that were imported."""

from decimal import Decimal

from django.core.validators import MinValueValidator
from django.db import models


class Course(models.Model):
    """A course, as enrollment sees it: a name and a price. Its seats are roster's business."""

    code = models.CharField(max_length=16, unique=True)
    title = models.CharField(max_length=80)
    price = models.DecimalField(
        max_digits=10, decimal_places=2, validators=[MinValueValidator(Decimal(0))]
    )

    class Meta:
        ordering = ["code"]

    def __str__(self) -> str:
        return self.code


class Enrollment(models.Model):
    """One student in one course, with the seat and the invoice that the other services gave."""

    # No unique (student, course): it would hide the duplicates that the demo is there to show,
    # and a student who withdrew may come back.
    student = models.CharField(max_length=64, db_index=True)
    course = models.ForeignKey(Course, on_delete=models.PROTECT, related_name="enrollments")
    # Ids in the databases of other services: no foreign key reaches there.
    roster_entry = models.PositiveBigIntegerField()
    invoice = models.PositiveBigIntegerField()
    idempotency_key = models.CharField(max_length=255, blank=True, db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{self.student} in {self.course}"


class SectionImport(models.Model):
    """The students of one section as they were handed in; a job enrolls them."""

    course = models.ForeignKey(Course, on_delete=models.PROTECT, related_name="imports")
    # A list of names; what became of each is in the job's result.
    students = models.JSONField()
    idempotency_key = models.CharField(max_length=255, blank=True, db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]

    def __str__(self) -> str:
        return f"{len(self.students)} students into {self.course}"
