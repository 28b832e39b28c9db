"""The billing service's URLs."""

from rest_framework.routers import SimpleRouter

from enrollment_demo.billing.views import InvoiceViewSet, PaymentViewSet
from enrollment_demo.demo.views import demo_urls, protected

router = SimpleRouter()
router.register("api/invoices", protected(InvoiceViewSet))
router.register("api/payments", protected(PaymentViewSet))

urlpatterns = [*router.urls, *demo_urls]
