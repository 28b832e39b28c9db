"""The billing service's URLs."""

from rest_framework.routers import SimpleRouter

from enrollment_demo.billing.views import InvoiceViewSet, PaymentViewSet
from enrollment_demo.demo.views import demo_urls, protected
from enrollment_demo.documented import documented_urls

router = SimpleRouter()
router.register("api/invoices", protected(InvoiceViewSet))
router.register("api/payments", protected(PaymentViewSet))

handler404 = "enrollment_demo.errors.not_found"
urlpatterns = [*router.urls, *documented_urls, *demo_urls]
