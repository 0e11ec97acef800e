"""Settings of the tests that start no processes of ours."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# How long an example takes says more about the machine than about the code.
_COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
# The same examples each time: what fails here fails for everybody. Others are looked for by `make explore`.
settings.register_profile("unit", _COMMON, derandomize=True)
settings.register_profile("explore", _COMMON, derandomize=False, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "unit"))
