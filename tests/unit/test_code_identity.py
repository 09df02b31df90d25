"""Which code runs: a hash over sources, and a commit only where it holds exactly them."""

from __future__ import annotations

import subprocess

import pytest

from raymill import code_identity


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "checkout" / "pkg"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n")
    (folder / "sub" / "b.py").write_text("y = 2\n")
    return folder


@pytest.fixture
def running(monkeypatch):
    """Pretend that the code of a folder is the one that runs."""

    def running(folder, installed=None):
        real = code_identity.source_hash
        monkeypatch.setattr(code_identity, "PACKAGE", folder)
        monkeypatch.setattr(code_identity, "source_hash", lambda package=folder: real(package))
        monkeypatch.setattr(code_identity, "_installed_package", lambda: installed)

    return running


def git(folder, *arguments):
    settings = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    done = subprocess.run(
        ["git", "-C", str(folder), *settings, *arguments], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_hash_changes_with_content_name_and_place_and_with_nothing_else(package):
    before = code_identity.source_hash(package)
    assert len(before) == 16
    (package / "notes.txt").write_text("no source")
    assert code_identity.source_hash(package) == before

    (package / "a.py").write_text("x = 2\n")
    changed = code_identity.source_hash(package)
    (package / "a.py").write_text("x = 1\n")
    (package / "a.py").rename(package / "c.py")
    renamed = code_identity.source_hash(package)
    (package / "c.py").rename(package / "sub" / "a.py")
    moved = code_identity.source_hash(package)
    assert len({before, changed, renamed, moved}) == 4


def test_bytes_do_not_slide_from_one_file_to_the_next(tmp_path):
    for name, first, second in (("one", "ab", "c"), ("two", "a", "bc")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text(first)
        (tmp_path / name / "b.py").write_text(second)
    assert code_identity.source_hash(tmp_path / "one") != code_identity.source_hash(tmp_path / "two")


def test_a_clean_checkout_has_a_commit_and_a_modified_one_has_none(package, running):
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    running(package)
    assert code_identity.commit() == git(package.parent, "rev-parse", "HEAD")
    (package / "a.py").write_text("x = 3\n")
    assert code_identity.commit() is None


def test_an_untracked_source_is_a_modification(package, running):
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    (package / "new.py").write_text("")
    running(package)
    assert code_identity.commit() is None


def test_without_git_the_commit_is_unknown(package, running):
    running(package)
    assert code_identity.commit() is None


def test_the_variable_wins(monkeypatch):
    monkeypatch.setenv("RAYMILL_COMMIT", "abc123")
    assert code_identity.commit() == "abc123"


def test_an_installed_package_of_other_sources_lends_no_commit(package, running, tmp_path):
    """A job's copy must not be given the commit of a checkout that has moved on."""
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "a.py").write_text("x = 99\n")
    git(package.parent, "init", "-q")
    git(package.parent, "add", ".")
    git(package.parent, "commit", "-qm", "first")
    running(copy, installed=package)
    assert code_identity.commit() is None
    (copy / "a.py").write_text("x = 1\n")
    (copy / "sub").mkdir()
    (copy / "sub" / "b.py").write_text("y = 2\n")
    assert code_identity.commit() == git(package.parent, "rev-parse", "HEAD")


def test_versions_name_python_and_the_flavor_s_packages():
    found = code_identity.package_versions(("torch",))
    assert set(found) == {"python", "numpy", "pyarrow", "ray", "torch"}
    assert found["torch"].startswith("2.")
