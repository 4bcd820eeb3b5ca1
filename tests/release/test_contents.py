"""What is in the archives that are released."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

from scripts.check_release import relative_targets

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel() -> Path:
    [wheel] = (ROOT / "dist").glob("*.whl")
    return wheel


def tracked(folder: str = ".") -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z", folder], cwd=ROOT, check=True, capture_output=True)
    return set(listed.stdout.decode().strip("\0").split("\0"))


def copy_to(checkout: Path) -> None:
    """Copy the files, as an unpacked archive has them."""
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes((ROOT / name).read_bytes())


def build_wheel(source: Path, folder: Path) -> None:
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel"]
    subprocess.run([*build, "--outdir", str(folder), str(source)], check=True, capture_output=True)


def test_the_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    info = "-".join(wheel.name.split("-")[:2]) + ".dist-info"
    about = ("METADATA", "RECORD", "WHEEL", "entry_points.txt", "licenses/LICENSE")
    examples = {f"airflow_provider_talkable/{name}" for name in tracked("example_dags")}
    assert sorted(names) == sorted(
        tracked("airflow_provider_talkable") | examples | {f"{info}/{name}" for name in about}
    )
    assert "airflow_provider_talkable/py.typed" in names


def test_the_source_archive_holds_the_repository() -> None:
    [sdist] = (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [member.name.partition("/")[2] for member in archive if member.isfile()]
    assert sorted(names) == sorted(tracked() | {"PKG-INFO"})


def test_the_source_archive_and_the_checkout_build_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    build_wheel(ROOT, tmp_path)
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_an_unpacked_archive_has_the_version_of_its_tag(tmp_path: Path) -> None:
    clone, unpacked = tmp_path / "clone", tmp_path / "unpacked"
    for command in (
        ["clone", "--quiet", "--depth=1", ROOT.as_uri(), str(clone)],
        ["-C", str(clone), "tag", "v7.8.9"],
        ["-C", str(clone), "archive", "--output", str(tmp_path / "archive.tar"), "v7.8.9"],
    ):
        subprocess.run(["git", *command], check=True)
    with tarfile.open(tmp_path / "archive.tar") as archive:
        archive.extractall(unpacked, filter="data")
    build_wheel(unpacked, tmp_path)
    assert (tmp_path / "airflow_provider_talkable-7.8.9-py3-none-any.whl").exists()


def test_an_archive_without_git_builds_too(tmp_path: Path) -> None:
    checkout = tmp_path / "talkable-main"
    copy_to(checkout)
    build_wheel(checkout, tmp_path)
    assert (tmp_path / "airflow_provider_talkable-0.0.0-py3-none-any.whl").exists()


def test_with_an_address_all_links_of_the_description_lead_there(tmp_path: Path) -> None:
    checkout = tmp_path / "talkable-main"
    copy_to(checkout)
    settings = (ROOT / "pyproject.toml").read_text()
    with_address = re.sub(
        r'^address = ".*"$', 'address = "https://example.org/o/n"', settings, flags=re.MULTILINE
    )
    (checkout / "pyproject.toml").write_text(with_address)
    build_wheel(checkout, tmp_path)
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith("/METADATA")]
        metadata = message_from_bytes(archive.read(name))
    assert "Source, https://example.org/o/n" in (metadata.get_all("Project-URL") or [])
    assert relative_targets(str(metadata.get_payload())) == []
