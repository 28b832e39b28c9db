from django.urls import include, path

from chaos import views

urlpatterns = [
    path("atomic/", views.Atomic.as_view()),
    path("leased/", views.Leased.as_view()),
    path("stepped/", views.Stepped.as_view()),
    path("once/", views.Once.as_view()),
    path("job/", views.Job.as_view()),
    path("idempotency/", include("idempotency.urls")),
    path("alive/", views.Alive.as_view()),
]
