from django.urls import path

from benchmarks import peers, views

urlpatterns = [
    path("floor/", views.Floor.as_view()),
    path("bare/", views.Bare.as_view()),
    path("protected/", views.Protected.as_view()),
    path("slow/", views.Slow.as_view()),
    *(path(f"{found.peer.path}/", found.view) for found in peers.runnable()),
]
