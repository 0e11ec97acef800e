"""Settings of the tests that start no processes of ours."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The time that an example takes depends more on the machine than on the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time, so that a failure is seen by everybody. `make explore` looks for other examples.
settings.register_profile("unit", _COMMON, derandomize=True)
settings.register_profile("explore", _COMMON, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
