"""The one row that every create of the benchmarks inserts."""

from typing import ClassVar

from django.db import models


class Enrollment(models.Model):
    """A student's place in a course."""

    objects: ClassVar[models.Manager["Enrollment"]] = models.Manager()

    student = models.CharField(max_length=64)
    course = models.CharField(max_length=16)

    class Meta:
        db_table = "benchmarks_enrollment"

    def __str__(self) -> str:
        return f"{self.student} in {self.course}"
