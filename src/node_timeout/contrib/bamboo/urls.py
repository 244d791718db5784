"""The HTTP contract of an engine, for a worker in another place.

Add it to the project's ``urlpatterns``, under any path:

    path("node_timeout/", include("node_timeout.contrib.bamboo.urls"))
"""

from __future__ import annotations

from django.urls import path

from node_timeout.contrib.bamboo.engine_view import engine_call
from node_timeout.wire.engine_calls import OPERATIONS, SURVEY

urlpatterns = [
    path(f"v1/{operation}", engine_call, {"operation": operation})
    for operation in (*OPERATIONS, SURVEY)
]
