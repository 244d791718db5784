"""Components whose nodes take as long as they are told, and that have hooks."""

import os
import signal
import time
from pathlib import Path
from typing import Any

from pipeline.component_framework.component import Component
from pipeline.core.flow.activity import Service, StaticIntervalGenerator
from pipeline.eri.models import State


class PollService(Service):
    """Polls until its seconds are over, as a node that waits for a job elsewhere."""

    __need_schedule__ = True
    interval = StaticIntervalGenerator(1)

    def execute(self, data: Any, parent_data: Any) -> bool:
        data.outputs.until = time.time() + float(data.get_one_of_inputs("seconds", 3600))
        return True

    def schedule(self, data: Any, parent_data: Any, callback_data: Any = None) -> bool:
        if time.time() >= data.get_one_of_outputs("until"):
            self.finish_schedule()
        return True


class PollComponent(Component):
    name = "poll"
    code = "test_poll"
    bound_service = PollService


class BusyService(Service):
    """Works in one go, so that nothing but its own end stops it."""

    def execute(self, data: Any, parent_data: Any) -> bool:
        time.sleep(float(data.get_one_of_inputs("seconds")))
        Path(data.get_one_of_inputs("file")).write_text("done", encoding="utf-8")
        return True


class BusyComponent(Component):
    name = "busy"
    code = "test_busy"
    bound_service = BusyService


class BusyHookedService(BusyService):
    __need_run_hook__ = True


class BusyHookedComponent(Component):
    name = "busy hooked"
    code = "test_busy_hooked"
    bound_service = BusyHookedService


class BusyPollService(PollService):
    """Works for long before it is polled; with ``ask`` it then asks whether its run is current."""

    def execute(self, data: Any, parent_data: Any) -> bool:
        time.sleep(float(data.get_one_of_inputs("seconds")))
        data.outputs.until = 0.0
        Path(data.get_one_of_inputs("file")).touch()
        if data.get_one_of_inputs("ask"):
            runs = State.objects.filter(node_id=self.id, version=self.version)
            if not runs.exists():
                raise RuntimeError("timed out meanwhile")
        return True


class BusyPollHookedService(BusyPollService):
    __need_run_hook__ = True


class BusyPollHookedComponent(Component):
    name = "busy poll hooked"
    code = "test_busy_poll_hooked"
    bound_service = BusyPollHookedService


class BusyPollComponent(Component):
    name = "busy poll"
    code = "test_busy_poll"
    bound_service = BusyPollService


class HookedService(PollService):
    """Its hook may kill whoever fails it, once, between fail and skip; and notes each call."""

    __need_run_hook__ = True

    def post_forced_fail_activity(
        self, data: Any, parent_data: Any, callback_data: Any = None
    ) -> bool:
        notes = Path(data.get_one_of_inputs("file"))
        with notes.open("a", encoding="utf-8") as file:
            file.write("failed\n")
        deadly = notes.with_suffix(".kill")
        if deadly.exists():
            deadly.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return True


if not os.environ.get("BAMBOO_TEST_WITHOUT_GONE"):

    class GoneComponent(Component):
        """As one that was removed while its nodes run, or that the worker cannot import."""

        name = "gone"
        code = "test_gone"
        bound_service = PollService


class HookedComponent(Component):
    name = "hooked"
    code = "test_hooked"
    bound_service = HookedService
