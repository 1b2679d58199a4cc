"""Builds the stack's programs from their Go modules, into a cache that outlives the checkout.

What is there in the right version is left alone; a change of a module's files is another version. `programs.py` looks
for them in the same place. Needs Go 1.26 or later, and nothing of Python beyond its standard library.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
OLDEST_GO = (1, 26)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A Go module beside this file, the packages that it makes programs of, and how."""

    name: str
    packages: tuple[str, ...]
    programs: tuple[str, ...]
    tags: str = ""

    @property
    def folder(self) -> Path:
        """Where its programs are, or will be: its name says what they were made from."""
        digest = hashlib.sha256(repr((self.packages, self.tags)).encode())
        for source in sorted((HERE / self.name).iterdir()):
            digest.update(source.read_bytes())
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        return cache / "otel-sessions" / f"{self.name}-{digest.hexdigest()[:16]}"

    @property
    def built(self) -> bool:
        return all((self.folder / program).exists() for program in self.programs)


MODULES = (
    Module(name="collector", packages=(".",), programs=("otelcol",)),
    Module(
        name="prometheus",
        packages=(
            "github.com/prometheus/prometheus/cmd/prometheus",
            "github.com/prometheus/prometheus/cmd/promtool",
        ),
        programs=("prometheus", "promtool"),
        tags="netgo,remove_all_sd",
    ),
    Module(name="jaeger", packages=("github.com/jaegertracing/jaeger/cmd/jaeger",), programs=("jaeger",)),
)
# Loki has none: its module is under the AGPL, and whether to build that is for whoever runs the tests to decide. A
# `loki` on the PATH is used.


def main() -> int:
    wanted = [module for module in MODULES if not module.built]
    if wanted and (complaint := go_is_missing()):
        print(f"stack-tools: {complaint}", file=sys.stderr)
        return 2
    for module in wanted:
        build(module)
    for module in MODULES:
        print(f"{module.folder}: {', '.join(module.programs)}")
    return 0


def go_is_missing() -> str | None:
    """Return what is wrong with the Go on the PATH, or None."""
    needed = "Go {}.{} or later is needed to build the stack's programs".format(*OLDEST_GO)
    if not shutil.which("go"):
        return f"{needed}, and there is none on the PATH"
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, text=True, check=True).stdout.strip()
    numbers = re.match(r"go(\d+)\.(\d+)", version)
    if numbers and (int(numbers[1]), int(numbers[2])) < OLDEST_GO:
        return f"{needed}, not {version}"
    return None


def build(module: Module) -> None:
    """Compile into a folder beside the final one, which appears only when all is there."""
    unfinished = module.folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    command = ["go", "build", "-v", "-trimpath", "-ldflags", "-s -w", "-tags", module.tags, "-o", f"{unfinished}/"]
    began = shown = time.monotonic()
    print(f"{module.name}: building ...", flush=True)
    with subprocess.Popen(
        [*command, *module.packages], cwd=HERE / module.name, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:  # a package a line, as it is compiled
            lines.append(line)
            if time.monotonic() - shown > 15:
                shown = time.monotonic()
                print(f"{module.name}: {len(lines)} steps in {shown - began:.0f} s", flush=True)
    if process.returncode:
        sys.exit("".join(lines[-20:]) + f"stack-tools: {module.name} could not be built")
    if module.name == "collector":
        (unfinished / "collector").rename(unfinished / "otelcol")
    shutil.rmtree(module.folder, ignore_errors=True)
    unfinished.rename(module.folder)
    print(f"{module.name}: built in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
