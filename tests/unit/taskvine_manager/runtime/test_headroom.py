"""The free memory of a control group, from statistics in the format of Linux."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from taskvine_manager.runtime import headroom

V1 = "cache 900\nrss 10\nshmem 5\ntotal_cache 4000\ntotal_rss 300\ntotal_rss_huge 0\ntotal_shmem 100\n"
V2 = "anon 300\nfile 4000\nkernel 7\nshmem 100\nanon_thp 0\nshmem_thp 0\ninactive_anon 50\n"


@pytest.fixture(autouse=True)
def _no_group() -> Iterator[None]:
    yield
    headroom.keep_to(None)


@pytest.mark.parametrize(("version", "said"), [(1, V1), (2, V2)])
def test_half_of_a_group_is_left_to_processes(tmp_path: Path, version: int, said: str) -> None:
    (tmp_path / "memory.stat").write_text(said)
    headroom.keep_to((str(tmp_path / "memory.stat"), version, 1000))
    assert headroom.allows(100)
    assert not headroom.allows(101)


def test_headroom_without_a_known_limit(tmp_path: Path) -> None:
    assert headroom.allows(1 << 60)
    headroom.keep_to((str(tmp_path / "gone"), 2, 1000))
    assert headroom.allows(1 << 60)
