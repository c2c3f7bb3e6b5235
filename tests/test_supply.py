"""What CI, the container and a release install is named, hashed, and what pyproject.toml asks for."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = ("build", "runtime", "test", "tools")
EXTRAS = {"runtime": ("cpu", "page"), "test": ("test",)}
WITHOUT = ("torch",)  # docs/decisions.md
PLACES = [
    {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux", "platform_machine": machine}
    for python in ("3.10", "3.11", "3.12", "3.13")
    for machine in ("x86_64", "aarch64")
]
ENTRY = re.compile(r"(?P<name>[a-z0-9.-]+)==(?P<version>[0-9a-z.]+)(?: ; (?P<marker>[^\\]+?))?(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)")


@dataclass(frozen=True)
class Pin:
    name: str
    version: str
    marker: Marker | None

    def counts(self, place: dict[str, str]) -> bool:
        return self.marker is None or self.marker.evaluate(place)


def pins(lock: str) -> Iterator[Pin]:
    """Every entry; what is none fails: an option, an address, a version without a hash."""
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    lines = [line for line in re.sub(r" \\\n\s+", " ", text).splitlines() if line.strip() and not line.strip().startswith("#")]
    assert lines
    for line in lines:
        entry = ENTRY.fullmatch(line)
        assert entry is not None, f"locks/{lock}.txt: {line[:120]!r} is no pinned version with hashes"
        yield Pin(entry["name"], entry["version"], Marker(entry["marker"]) if entry["marker"] else None)


def required(extras: tuple[str, ...]) -> Iterator[Requirement]:
    """Of dkcam with these extras, those that its own extras name included."""
    texts = list(PROJECT["project"]["dependencies"])
    for extra in extras:
        texts += PROJECT["project"]["optional-dependencies"][extra]
    for requirement in map(Requirement, texts):
        if requirement.name == "dkcam":
            yield from required(tuple(requirement.extras))
        else:
            yield requirement


def version_at(lock: str, name: str, place: dict[str, str]) -> str | None:
    """None where it is not installed there. Two versions at once fail."""
    versions = [pin.version for pin in pins(lock) if pin.name == canonicalize_name(name) and pin.counts(place)]
    assert len(versions) <= 1, f"locks/{lock}.txt: {name} is there as {versions} on {place}"
    return versions[0] if versions else None


@pytest.mark.parametrize("lock", LOCKS)
def test_every_entry_is_a_version_with_hashes_from_nowhere_in_particular(lock: str) -> None:
    assert len(list(pins(lock))) >= 8
    text = (ROOT / "locks" / f"{lock}.txt").read_text()
    assert "://" not in text and "/opt" not in text and "# make lock" in text.replace("#    ", "# ")


@pytest.mark.parametrize("lock", EXTRAS)
def test_a_lock_is_what_pyproject_asks_for(lock: str) -> None:
    wanted = [requirement for requirement in required(EXTRAS[lock]) if requirement.name not in WITHOUT]
    assert len(wanted) > 10
    for place in PLACES:
        for requirement in wanted:
            if requirement.marker is not None and not requirement.marker.evaluate(place):
                continue
            version = version_at(lock, requirement.name, place)
            assert version is not None and requirement.specifier.contains(version), (
                f"locks/{lock}.txt has {requirement.name} {version} on {place}, pyproject.toml asks for {requirement}; run make lock"
            )


def test_what_is_left_out_is_pinned_in_the_makefile() -> None:
    assert (
        f"TORCH := {next(str(one) for one in required(('test',)) if str(one).startswith('torch=='))}\n" in (ROOT / "Makefile").read_text()
    )
    assert not {pin.name for pin in pins("test")} & {"torch", "triton"}


def test_ci_and_the_container_run_the_same_versions() -> None:
    for place in PLACES:
        for pin in pins("runtime"):
            if pin.counts(place):
                assert version_at("test", pin.name, place) == pin.version, f"{pin.name} on {place}; run make lock"


def test_what_builds_is_locked() -> None:
    given = {
        Requirement(line.split("#")[0]) for line in (ROOT / "locks" / "build.in").read_text().splitlines() if line.split("#")[0].strip()
    }
    assert {Requirement(text) for text in PROJECT["build-system"]["requires"]} <= given
    for place in PLACES:
        for requirement in given:
            version = version_at("build", requirement.name, place)
            assert version is not None and requirement.specifier.contains(version), f"{requirement}; run make lock"


def instructions() -> list[list[str]]:
    """Of the Dockerfile, as words."""
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    return [shlex.split(line) for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_the_container_installs_only_what_was_checked() -> None:
    installs = [
        command.split()
        for words in instructions()
        if words[0] == "RUN"
        for command in " ".join(words[1:]).split("&&")
        if re.search(r"\bpip (\S+ )*?(install|wheel|download)\b", command)
    ]
    assert len(installs) == 4
    assert all("--require-hashes" in words or "--no-index" in words for words in installs), installs


def test_the_container_runs_without_rights() -> None:
    last = [words for words in instructions() if words[0] in ("FROM", "USER", "ENTRYPOINT")][-3:]
    assert [words[0] for words in last] == ["FROM", "USER", "ENTRYPOINT"] and int(last[1][1]) > 0


def test_the_container_gets_what_it_is_built_from_and_no_more() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = [rule[1:] for rule in rules if rule.startswith("!")]
    assert all((ROOT / name).exists() for name in let_in)
    needed = [
        "pyproject.toml",
        "README.md",
        "LICENSE",
        *(link.readlink().name for link in (ROOT / "src/dkcam").iterdir() if link.is_symlink()),
    ]
    copied = [name for words in instructions() if words[0] == "COPY" and not words[1].startswith("--from") for name in words[1:-1]]
    for name in [*needed, *(name for name in copied if name != ".")]:
        assert (ROOT / name).exists() and any(fnmatch(name, f"{rule}*") for rule in let_in), f"{name} does not reach the image"
    assert not {".git", ".venv", "tests"} & set(let_in)


def workflow() -> Any:
    return yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())


def test_a_release_names_every_action_by_its_commit() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text()
    uses = re.findall(r"uses: (.+)", text)
    assert len(uses) > 5
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in uses), uses


def test_who_may_write_runs_no_code_of_others() -> None:
    assert workflow()["permissions"] == {}
    for name, job in workflow()["jobs"].items():
        writes = "write" in job["permissions"].values()
        assert writes == (name == "release")
        if writes:
            assert not [step for step in job["steps"] if re.search(r"checkout|setup-|make |pip", f"{step.get('uses')} {step.get('run')}")]


def test_a_release_runs_what_there_is() -> None:
    commands = [step["run"] for job in workflow()["jobs"].values() for step in job["steps"] if "run" in step]
    assert not [command for command in commands if "${{" in command], "a name from outside would become part of a script"
    targets = [command.split()[1] for command in commands if command.startswith("make ")]
    assert targets == ["audit", "sbom"] and "bash .ci/run" in commands
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


PROMISES = [ROOT / "SECURITY.md", ROOT / "docs/threat-model.md"]


def test_limits_are_what_the_threat_model_says() -> None:
    limits = re.findall(r"`([a-z_.]+)\.([A-Z_]+) = ([^`]+)`", (ROOT / "docs/threat-model.md").read_text())
    assert len(limits) > 20
    for module, name, value in limits:
        actual = getattr(import_module(f"dkcam.{module}"), name)
        assert actual == eval(value, {"__builtins__": {}}), f"{module}.{name} is {actual}, docs/threat-model.md says {value}"


@pytest.mark.parametrize("page", PROMISES, ids=lambda page: page.name)
def test_promises_name_tests_that_there_are(page: Path) -> None:
    file, count = "", 0
    for path, test in re.findall(r"`(tests/[\w/]+\.py)?(?:::(test_\w+))?`", page.read_text()):
        file = path or file
        if path or test:
            count += 1
            text = (ROOT / file).read_text()
            assert not test or f"\ndef {test}(" in text, f"{page.name}: {file} has no {test}"
    assert count > 8
