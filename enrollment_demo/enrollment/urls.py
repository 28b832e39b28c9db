"""The enrollment service's URLs."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import path
from rest_framework.routers import SimpleRouter

from enrollment_demo.demo.views import demo_urls, protected
from enrollment_demo.enrollment.views import EnrollmentViewSet

router = SimpleRouter()
router.register("api/enrollments", protected(EnrollmentViewSet))

urlpatterns = [
    *router.urls,
    *demo_urls,
    path("admin/", admin.site.urls),
    # No web server stands in front of the sample, so the admin's style sheets come from here.
    path("static/<path:path>", serve, {"insecure": True}),
]
