"""What a service says of itself: its OpenAPI schema, and a page to read and try it."""

from django.contrib.staticfiles.views import serve
from django.urls import path
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

documented_urls = [
    path("api/schema/", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs/", SpectacularSwaggerSplitView.as_view(), name="docs"),
    # No web server stands in front of the sample: scripts and style sheets come from here.
    path("static/<path:path>", serve, {"insecure": True}),
]
