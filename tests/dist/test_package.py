"""What `make dist` has built: a wheel and an sdist, used as a stranger would."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="session")
def wheel():
    (path,) = (ROOT / "dist").glob("*.whl")
    return path


def metadata_of(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


def relative_links(markdown):
    prose = re.sub(r"^```.*?^```", "", markdown, flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match("https://|#", target)]


def test_the_wheel_holds_the_package_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"chandrop"}
    source = {str(path.relative_to(ROOT / "src")) for path in ROOT.glob("src/**/*.py")}
    in_wheel = {name for name in names if ".dist-info/" not in name}
    assert in_wheel == source | {"chandrop/py.typed"}


def test_the_sdist_holds_what_the_build_needs():
    (path,) = (ROOT / "dist").glob("*.tar.gz")
    with tarfile.open(path) as archive:
        parts = {member.name.split("/")[1] for member in archive.getmembers()}
    assert not parts & {"tests", "benchmarks", "docs", "examples"}


@pytest.mark.parametrize("module", ["mlx.nn", "chandrop.nn"])
def test_the_wheel_alone_runs_the_example(wheel, module, tmp_path_factory):
    python = installed(wheel, tmp_path_factory.getbasetemp() / "empty")
    code, says = re.search(r"```python\n(.*?)```(.*?)\n##", README, re.DOTALL).groups()
    theirs, ours = re.findall(r"`(\d\.\d\d)`", says)
    code = code.replace("from mlx.nn import", f"from {module} import", 1)
    printed = subprocess.check_output([python, "-I", "-c", code], text=True)
    assert printed.strip() == (theirs if module == "mlx.nn" else ours)


def test_an_import_takes_the_standard_library_and_mlx_alone(wheel, tmp_path_factory):
    python = installed(wheel, tmp_path_factory.getbasetemp() / "empty")
    packages = ", ".join(f"chandrop.{name}" for name in ("nn", "thin", "uncertainty"))
    code = (
        f"import sys; before = set(sys.modules); import {packages}\n"
        "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(tops - {*sys.stdlib_module_names, 'chandrop', 'mlx'}))"
    )
    printed = subprocess.check_output([python, "-I", "-c", code], text=True)
    assert printed.strip() == "[]"


def installed(wheel, folder):
    """The Python of an environment that was empty before the wheel was installed."""
    python = folder / "bin" / "python"
    if not folder.exists():
        venv.create(folder, with_pip=True)
        extra = "" if sys.platform == "darwin" else "[cpu]"
        install = [
            python,
            "-m",
            "pip",
            "install",
            "--quiet",
            f"chandrop{extra} @ {wheel.as_uri()}",
        ]
        subprocess.run(install, check=True)
    return python


def test_the_page_on_pypi_has_no_relative_links(wheel):
    metadata = metadata_of(wheel)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert relative_links(README)
    assert not relative_links(metadata.get_payload())


def test_links_on_pypi_lead_to_the_repository(tmp_path):
    address = "https://example.com/someone/chandrop"
    for name in ("src", "publishing"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    project = (ROOT / "pyproject.toml").read_text()
    with_address = re.sub('^address = ".*"$', f'address = "{address}"', project, flags=re.M)
    (tmp_path / "pyproject.toml").write_text(with_address)
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, tmp_path]
    subprocess.run(build, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    metadata = metadata_of(built)
    page = metadata.get_payload()
    assert not relative_links(page)
    for target in relative_links(README):
        kind = "raw" if target.endswith(".png") else "blob"
        assert f"]({address}/{kind}/v{metadata['Version']}/{target})" in page
    assert f"Repository, {address}" in metadata.get_all("Project-URL")
