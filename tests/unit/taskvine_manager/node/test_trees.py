"""Directory trees: copied and archived whole, or refused with an error."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from taskvine_manager.node import trees

Copy = Callable[..., None]


def through_an_archive(source: str, target: str, within: str = "") -> None:
    archive = f"{target}.archive"
    trees.pack(source, archive, within)
    assert trees.is_packed(archive)
    trees.unpack(archive, target)
    os.unlink(archive)


@pytest.fixture(params=[trees.copy_tree, through_an_archive], ids=["copied", "archived"])
def copy(request: pytest.FixtureRequest) -> Copy:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree"
    path.mkdir()
    return path


def listing(root: Path) -> dict[str, object]:
    """Return everything below a directory, with contents, link targets and modes."""
    found: dict[str, object] = {}
    for path in root.rglob("*"):
        name = os.fsencode(path.relative_to(root)).decode(errors="surrogateescape")
        mode = stat.S_IMODE(path.lstat().st_mode)
        if path.is_symlink():
            found[name] = os.readlink(path)
        else:
            found[name] = mode if path.is_dir() else (mode, path.read_bytes())
    return found


def copied(copy: Copy, tree: Path, **settings: str) -> dict[str, object]:
    target = tree.parent / "copy"
    copy(str(tree), str(target), **settings)
    left = [name for name in os.listdir(tree.parent) if name.endswith((".partial", ".archive"))]
    assert left == []
    return listing(target)


def test_everything_in_a_tree_is_copied(copy: Copy, tree: Path) -> None:
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "empty").mkdir(mode=0o750)
    (tree / "empty file").touch()
    (tree / "a" / "run.sh").write_text("#!/bin/sh")
    (tree / "a" / "run.sh").chmod(0o755)
    (tree / "a" / "b" / "large").write_bytes(os.urandom(3 << 20))
    (tree / "a" / "not-utf8-\udcff").write_text("x")
    (tree / ("n" * 255)).write_text("long name")
    assert copied(copy, tree) == listing(tree)


def test_owner_may_write_to_the_copy(copy: Copy, tree: Path) -> None:
    (tree / "sealed").mkdir()
    (tree / "sealed" / "file").write_text("x")
    (tree / "sealed" / "file").chmod(0o444)
    (tree / "sealed").chmod(0o555)
    assert copied(copy, tree) == {"sealed": 0o755, "sealed/file": (0o644, b"x")}


def test_deep_tree_is_copied(copy: Copy, tree: Path) -> None:
    deepest = tree / "/".join("d" * 600)
    deepest.mkdir(parents=True)
    (deepest / "file").write_text("x")
    assert len(copied(copy, tree)) == 601


def test_links_in_a_tree_stay_links(copy: Copy, tree: Path) -> None:
    (tree / "a").mkdir()
    (tree / "a" / "file").write_text("x")
    (tree / "a" / "up").symlink_to("../a/file")
    (tree / "folder").symlink_to("a")
    (tree / "absolute").symlink_to(tree / "a" / "file")
    (tree / "itself").symlink_to("itself")
    (tree / "nowhere").symlink_to("never")
    found = copied(copy, tree)
    expected = {"a/up": "../a/file", "folder": "a", "absolute": "a/file", "itself": "itself", "nowhere": "never"}
    assert {name: found[name] for name in expected} == expected
    assert len(found) == 7


def test_links_to_the_outside_are_copied_or_refused(copy: Copy, tree: Path) -> None:
    other = tree.parent / "other"
    (other / "sub").mkdir(parents=True)
    (other / "file").write_text("other")
    (other / "sub" / "link").symlink_to("../file")
    (tree / "file").symlink_to("../other/file")
    (tree / "folder").symlink_to("../other")
    (tree / "absolute").symlink_to(other)
    (tree / "nowhere").symlink_to("../never")
    found = copied(copy, tree)
    assert found["file"] == found["folder/file"] == (stat.S_IMODE((other / "file").stat().st_mode), b"other")
    assert found["folder/sub/link"] == "../file"
    assert found["absolute"] == str(other)
    assert found["nowhere"] == "../never"


def test_absolute_links_into_a_sandbox_are_followed(copy: Copy, tree: Path) -> None:
    (tree.parent / "given").write_text("given")
    (tree / "link").symlink_to(tree.parent / "given")
    (tree / "elsewhere").symlink_to("/usr")
    found = copied(copy, tree, within=str(tree.parent))
    assert found["link"] == (stat.S_IMODE((tree.parent / "given").stat().st_mode), b"given")
    assert found["elsewhere"] == "/usr"


@pytest.mark.parametrize("target", ["..", "../.."])
def test_link_to_a_directory_above_is_refused(copy: Copy, tree: Path, target: str) -> None:
    (tree / "sub").mkdir()
    (tree / "sub" / "link").symlink_to(f"../{target}")
    with pytest.raises(OSError, match="which contains the link") as caught:
        copied(copy, tree)
    assert caught.value.errno == errno.ELOOP
    assert os.listdir(tree.parent) in (["tree"], ["copy.archive", "tree"], ["tree", "copy.archive"])


def test_pipe_in_a_tree_is_refused(copy: Copy, tree: Path) -> None:
    os.mkfifo(tree / "pipe")
    with pytest.raises(OSError, match="only files, directories and symbolic links") as caught:
        copied(copy, tree)
    assert caught.value.filename == str(tree / "pipe")


def test_existing_directory_is_added_to(copy: Copy, tree: Path) -> None:
    target = tree.parent / "copy"
    (target / "kept").mkdir(parents=True)
    (target / "changed").write_text("old")
    (target / "link").symlink_to("old")
    (tree / "kept").mkdir()
    (tree / "kept" / "new").write_text("new")
    (tree / "changed").write_text("new")
    (tree / "link").symlink_to("changed")
    copied(copy, tree)
    assert sorted(os.listdir(target)) == ["changed", "kept", "link"]
    assert [(target / name).read_text() for name in ("changed", "link", "kept/new")] == ["new"] * 3


def test_file_and_directory_do_not_replace_each_other(copy: Copy, tree: Path) -> None:
    target = tree.parent / "copy"
    (target / "a").mkdir(parents=True)
    (tree / "a").write_text("file")
    with pytest.raises(IsADirectoryError):
        copied(copy, tree)
    (tree / "a").unlink()
    (tree / "a").mkdir()
    (target / "a").rmdir()
    (target / "a").write_text("file")
    with pytest.raises(NotADirectoryError):
        copied(copy, tree)


def test_archive_in_a_tree_stays_a_file(copy: Copy, tmp_path: Path) -> None:
    source, target = tmp_path / "tree", tmp_path / "copy"
    source.write_bytes(trees.MAGIC + b"not an archive")
    assert trees.must_pack(str(source))
    copy(str(source), str(target))
    assert target.read_bytes() == source.read_bytes()


@pytest.mark.parametrize("left", [0, 15, 16, 50, -1])
def test_truncated_archive_is_refused(tree: Path, left: int) -> None:
    (tree / "a").write_text("a" * 100)
    archive, target = str(tree.parent / "archive"), str(tree.parent / "copy")
    trees.pack(str(tree), archive)
    os.truncate(archive, left if left >= 0 else os.path.getsize(archive) + left)
    with pytest.raises(OSError, match="cut short"):
        trees.unpack(archive, target)
    assert not os.path.lexists(target)


# --- surveys ---


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: (tree / "new").touch(),
        lambda tree: (tree / "a" / "file").write_text("y"),
        lambda tree: (tree / "a" / "file").chmod(0o600),
        lambda tree: (tree / "a" / "file").rename(tree / "a" / "other"),
        lambda tree: (tree / "a" / "file").unlink(),
        lambda tree: os.utime(tree / "a" / "file", (0, 0)),
    ],
)
def test_stamp_changes_with_anything_in_the_tree(tree: Path, change: Callable[[Path], object]) -> None:
    (tree / "a").mkdir()
    (tree / "a" / "file").write_text("x")
    before = trees.survey(str(tree))
    assert trees.survey(str(tree)) == before
    change(tree)
    after = trees.survey(str(tree))
    assert after.stamp != before.stamp
    assert after.changed >= before.changed


def test_stamp_includes_targets_of_links(tree: Path) -> None:
    (tree.parent / "other").write_text("x")
    (tree / "link").symlink_to("../other")
    before = trees.survey(str(tree)).stamp
    (tree.parent / "other").write_text("xy")
    assert trees.survey(str(tree)).stamp != before


_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and len(name.encode()) < 200
)
_trees = st.recursive(st.binary(max_size=200), lambda inner: st.dictionaries(_names, inner, max_size=4), max_leaves=12)


def _write(path: Path, content: object) -> None:
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    assert isinstance(content, dict)
    path.mkdir()
    for name, inner in content.items():
        _write(path / name, inner)


@given(content=st.dictionaries(_names, _trees, max_size=4))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_equal_trees_give_equal_archives_of_the_size_foreseen(
    content: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("trees")
    for name in ("one", "two"):
        _write(place / name, content)
        trees.pack(str(place / name), str(place / f"{name}.archive"))
        assert trees.survey(str(place / name)).size == os.path.getsize(place / f"{name}.archive")
    assert (place / "one.archive").read_bytes() == (place / "two.archive").read_bytes()
    trees.unpack(str(place / "one.archive"), str(place / "copy"))
    assert listing(place / "copy") == listing(place / "one")
