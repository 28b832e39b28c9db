"""The enrollment service's URLs."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path
from rest_framework.routers import SimpleRouter

from enrollment_demo.demo.views import demo_urls, protected
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

urlpatterns = [
    *router.urls,
    *demo_urls,
    path("api/idempotency/", include("idempotency.urls")),
    path("admin/", admin.site.urls),
    # No web server stands in front of the sample, so the admin's style sheets come from here.
    path("static/<path:path>", serve, {"insecure": True}),
]
