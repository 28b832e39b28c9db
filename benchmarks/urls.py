from django.contrib import admin
from django.urls import include, path

from benchmarks import peers, views

urlpatterns = [
    path("alive/", views.alive),
    path("floor/", views.Floor.as_view()),
    path("bare/", views.Bare.as_view()),
    path("protected/", views.Protected.as_view()),
    path("slow/", views.Slow.as_view()),
    path("leased/", views.Leased.as_view()),
    path("lasting/", views.Lasting.as_view()),
    path("job/", views.Job.as_view()),
    path("admin/", admin.site.urls),
    # A job's Location is looked up here.
    path("idempotency/", include("idempotency.urls")),
    *(path(f"{found.peer.path}/", found.view) for found in peers.runnable()),
]
