"""The admin pages, and what answers a worker that acts over HTTP."""

from django.apps import apps
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
if apps.is_installed("node_timeout.contrib.bamboo"):
    urlpatterns += [path("node_timeout/", include("node_timeout.contrib.bamboo.urls"))]
