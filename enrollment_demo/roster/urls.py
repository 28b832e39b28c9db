"""The roster service's URLs."""

from rest_framework.routers import SimpleRouter

from enrollment_demo.demo.views import demo_urls, protected
from enrollment_demo.documented import documented_urls
from enrollment_demo.roster.views import RosterEntryViewSet

router = SimpleRouter()
router.register("api/roster-entries", protected(RosterEntryViewSet))

handler404 = "enrollment_demo.errors.not_found"
urlpatterns = [*router.urls, *documented_urls, *demo_urls]
