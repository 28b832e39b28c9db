"""Optional look-ups, as in `path("idempotency/", include("idempotency.urls"))`."""

from django.urls import path

from idempotency.lookup import JobLookup, KeyLookup

app_name = "idempotency"
urlpatterns = [
    # Percent-encode the key in the URL; a slash in it may be encoded or not.
    path("keys/<path:key>/", KeyLookup.as_view(), name="key"),
    path("jobs/<uuid:job_id>/", JobLookup.as_view(), name="job"),
]
