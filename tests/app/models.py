"""What the protected views write: rows to count, and a constraint that fails at the commit."""

from django.db import models


class Booking(models.Model):
    """An effect. No unique constraint: a duplicate must be able to show."""

    name = models.CharField(max_length=100)
    seats = models.IntegerField(default=1)

    def __str__(self) -> str:
        return self.name


class Enrollment(models.Model):
    """An effect of the README's job: who, and under which key."""

    student = models.CharField(max_length=100)
    key = models.CharField(max_length=255)

    def __str__(self) -> str:
        return self.student


class Payment(models.Model):
    """An effect of the README's consumer."""

    event = models.CharField(max_length=100)
    amount = models.IntegerField()

    def __str__(self) -> str:
        return self.event


class Ticket(models.Model):
    """Its foreign key is checked at the commit (PostgreSQL, SQLite)."""

    booking = models.ForeignKey(Booking, on_delete=models.CASCADE)

    def __str__(self) -> str:
        return f"ticket of {self.booking_id}"
