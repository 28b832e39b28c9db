"""Courses with their capacity, and who sits in them."""

from django.db import models
from django.db.models import F, Q


class Course(models.Model):
    """A course, as roster sees it: so many seats, so many of them taken."""

    code = models.CharField(max_length=16, unique=True)
    capacity = models.PositiveIntegerField()
    taken = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(taken__lte=F("capacity")), name="never_overbooked"),
        ]

    def __str__(self) -> str:
        return self.code

    def take_seat(self) -> bool:
        """Takes one; False when the course is full."""
        # One conditional statement: the row's lock orders the crowd for the last seat.
        free = Course.objects.filter(pk=self.pk, taken__lt=F("capacity"))
        return free.update(taken=F("taken") + 1) == 1


class RosterEntry(models.Model):
    """One seat of one student."""

    # No unique (student, course): it would hide the duplicates that the demo is there to show,
    # and a student who withdrew may come back.
    student = models.CharField(max_length=64, db_index=True)
    course = models.ForeignKey(Course, on_delete=models.PROTECT, related_name="entries")
    idempotency_key = models.CharField(max_length=255, blank=True, db_index=True)
    created = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["id"]
        verbose_name_plural = "roster entries"

    def __str__(self) -> str:
        return f"{self.student} in {self.course}"
