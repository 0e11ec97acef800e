"""What a record says about the configuration and the versions of a run."""

from __future__ import annotations

import msgpack
import parsl

from taskvine_exec import __version__
from taskvine_exec.config import facts
from tests.unit.taskvine_exec.config.derived import embedded, vine


def test_versions() -> None:
    versions = facts(embedded())["versions"]
    assert (versions["taskvine-exec"], versions["parsl"]) == (__version__, parsl.__version__)
    assert versions["python"].startswith("3.")
    assert versions["system"].startswith("Linux")


def test_settings_are_plain_and_hide_passwords() -> None:
    settings = facts(vine(init_command="export API_TOKEN=abc \ud800", env_vars={"PASSWORD": "abc"}))["settings"]
    assert settings["init_command"] == "export API_TOKEN=*** \\ud800"
    assert settings["worker"] == "vine_worker"
    assert (settings["max_retries"], settings["batching"]) == (1, True)
    assert "abc" not in str(settings)
    assert msgpack.unpackb(msgpack.packb(settings)) == settings
