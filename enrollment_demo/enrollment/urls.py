"""The enrollment service's URLs."""

from django.contrib import admin
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from enrollment_demo.demo.views import demo_urls, protected
from enrollment_demo.documented import documented_urls
from enrollment_demo.enrollment.views import (
    EnrollmentViewSet,
    LeasedEnrollmentViewSet,
    SectionImportViewSet,
)

router = SimpleRouter()
router.register("api/enrollments", protected(EnrollmentViewSet))
# Not to be bypassed: leases and jobs stand on the record of their key.
router.register("api/leased-enrollments", LeasedEnrollmentViewSet, "leased-enrollment")
router.register("api/section-imports", SectionImportViewSet)

handler404 = "enrollment_demo.errors.not_found"
urlpatterns = [
    *router.urls,
    *documented_urls,
    *demo_urls,
    path("api/idempotency/", include("idempotency.urls")),
    path("admin/", admin.site.urls),
]
