"""The business under fire."""

from django.db import models


class Effect(models.Model):
    """What one execution has done. No unique constraint: a duplicate must be able to show."""

    service = models.CharField(max_length=20)
    caller = models.CharField(max_length=20)
    name = models.CharField(max_length=60)

    def __str__(self) -> str:
        return f"{self.service} {self.caller} {self.name}"
