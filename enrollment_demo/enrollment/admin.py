"""Courses, enrollments and imports on the admin site."""

from django.contrib import admin

from enrollment_demo.enrollment.models import Course, Enrollment, SectionImport


@admin.register(Course)
class CourseAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """Courses and their prices."""

    list_display = ["code", "title", "price"]
    search_fields = ["code", "title"]


@admin.register(Enrollment)
class EnrollmentAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """Who enrolled, and under which key."""

    list_display = ["student", "course", "roster_entry", "invoice", "idempotency_key", "created"]
    list_filter = ["course"]
    list_select_related = ["course"]
    search_fields = ["student", "idempotency_key"]


@admin.register(SectionImport)
class SectionImportAdmin(admin.ModelAdmin):  # type: ignore[type-arg] # no subscript at run time
    """Sections as they were handed in."""

    list_display = ["__str__", "idempotency_key", "created"]
    list_filter = ["course"]
    list_select_related = ["course"]
    search_fields = ["idempotency_key"]
