# SPDX-License-Identifier: LGPL-2.1-or-later
"""
Fetch a kernel of the matrix: its image, its modules and its debug information, all of one version.

Nothing is pinned, because superseded versions leave the archive: apt resolves the newest version that can really be
fetched, from the mirror that this machine itself uses, with the machine's own lists and state left alone.
"""

from __future__ import annotations

import json
import lzma
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .cache import cache_dir, locked, new_directory
from .matrix import Kernel

APT_DIRECTORY = Path("/etc/apt")
IMAGE_MEMBERS = ("./boot/*", "./lib/modules/*", "./usr/lib/modules/*")
# In most packages vmlinux comes early. Without --occurrence tar would read to the end: 200 MB more of xz.
DEBUG_MEMBERS = ("--no-anchored", "--occurrence=1", "vmlinux*")


class FetchError(Exception):
    """A kernel of the matrix could not be had. Never a reason to skip a test."""


@dataclass(frozen=True)
class Files:
    """A fetched kernel."""

    name: str
    version: str
    release: str
    directory: Path

    @property
    def vmlinuz(self) -> Path:
        """The bootable image."""
        return self.directory / "vmlinuz"

    @property
    def vmlinux(self) -> Path:
        """Debug information of the image; not there if only the image was asked for."""
        return self.directory / "vmlinux"

    @property
    def modules(self) -> Path:
        """All modules, as a tree of uncompressed .ko files."""
        return self.directory / "modules"


@dataclass(frozen=True)
class Source:
    """One line of apt's sources: where, which suite, and who signs it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str


def fetch(kernel: Kernel, refresh: bool = False) -> Files:
    """
    Return the files of a kernel, from the cache when it has any version of it.

    :param refresh: Ask the archive for a newer version, even when the cache has one.
    :raises FetchError: if no version of the kernel can be fetched
    """
    cached = None if refresh else newest_cached(kernel)
    if cached:
        return cached
    with locked(_kernel_cache(kernel)):
        return (None if refresh else newest_cached(kernel)) or _fetch(kernel)


def _fetch(kernel: Kernel) -> Files:
    apt = _Apt(kernel)
    failures = []
    for version in apt.versions():
        directory = _kernel_cache(kernel) / version
        if (directory / "meta.json").exists():
            return _load(kernel, directory)
        try:
            return _fetch_version(kernel, apt, version, directory)
        except (subprocess.CalledProcessError, FetchError) as error:
            # The index may be ahead of the pool it describes: the next older version can still be whole.
            failures.append(f"{version}: {error}")
    raise FetchError(f"kernel {kernel.name}: no version of it could be fetched; tried " + "; ".join(failures))


def module_symbols(kernel: Kernel, version: str) -> tuple[Path, ...]:
    """
    Return the debug information of the modules that need it, from the cache or fetched now.

    :raises FetchError: if it cannot be had
    """
    if not kernel.module_symbols:
        return ()
    directory = cache_dir() / "symbols" / "-".join((kernel.name, version, *kernel.module_symbols))
    if not directory.exists():
        with locked(directory):
            _ensure_module_symbols(kernel, version, directory)
    return tuple(directory / f"{name}.ko" for name in kernel.module_symbols)


def _ensure_module_symbols(kernel: Kernel, version: str, directory: Path) -> None:
    if not directory.exists():
        apt = _Apt(kernel)
        with new_directory(directory) as scratch:
            for package in sorted(apt.kernel_packages(kernel.metapackages[1], version)):
                _unpack(apt.download(package, version, scratch), scratch, [f"*/{m}.ko" for m in kernel.module_symbols])
            for name in kernel.module_symbols:
                shutil.move(_the_one(scratch, [f"usr/lib/debug/**/{name}.ko"]), scratch / f"{name}.ko")
            shutil.rmtree(scratch / "usr")


def newest_cached(kernel: Kernel) -> Files | None:
    """Return the kernel most recently fetched into the cache, if any."""
    found = sorted(_kernel_cache(kernel).glob("*/meta.json"), key=lambda path: path.stat().st_mtime)
    return _load(kernel, found[-1].parent) if found else None


def _kernel_cache(kernel: Kernel) -> Path:
    return cache_dir() / "kernels" / kernel.name


def _load(kernel: Kernel, directory: Path) -> Files:
    meta = json.loads((directory / "meta.json").read_text())
    return Files(kernel.name, meta["version"], meta["release"], directory)


def _fetch_version(kernel: Kernel, apt: _Apt, version: str, directory: Path) -> Files:
    image, debug = kernel.metapackages
    if kernel.image_only:
        packages, debug_packages = sorted(apt.image_packages(version)), []
    else:
        packages = sorted(apt.kernel_packages(image, version))
        debug_packages = sorted(apt.kernel_packages(debug, version))
    with new_directory(directory) as scratch:
        tree = scratch / "tree"
        tree.mkdir()
        # The image packages first: they are small, so a version that left the pool is noticed before the long download.
        for package in packages:
            _unpack(
                apt.download(package, version, scratch), tree, ["./boot/*", "./lib/modules/*", "./usr/lib/modules/*"]
            )
        vmlinuz = _the_one(tree, ["boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"])
        shutil.move(vmlinuz, scratch / "vmlinuz")
        drivers = _the_one(tree, ["lib/modules/*/kernel", "usr/lib/modules/*/kernel"])
        release = drivers.parent.name
        shutil.move(drivers, scratch / "modules")
        _decompress_modules(scratch / "modules")
        for package in debug_packages:
            _unpack(apt.download(package, version, scratch), tree, DEBUG_MEMBERS)
        if debug_packages:
            vmlinux = _the_one(tree, ["usr/lib/debug/boot/vmlinux-*", "usr/lib/debug/lib/modules/*/vmlinux"])
            if release not in str(vmlinux):
                raise FetchError(f"image is {release}, debug information is {vmlinux.relative_to(tree)}")
            shutil.move(vmlinux, scratch / "vmlinux")
        shutil.rmtree(tree)
        meta = {"kernel": kernel.name, "version": version, "release": release, "packages": packages + debug_packages}
        (scratch / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    return _load(kernel, directory)


def _unpack(deb: Path, tree: Path, members: Sequence[str]) -> None:
    """Unpack members of a package, given as tar takes them, then delete the package."""
    archive = ["dpkg-deb", "--fsys-tarfile", str(deb)]
    unpack = ["tar", "-x", "-C", str(tree), "--wildcards", *members]
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as package:
        result = subprocess.run(unpack, stdin=package.stdout, stderr=subprocess.PIPE, text=True, check=False)
        if package.stdout:
            package.stdout.close()
    # Packages differ in which of the members they have; what is missing in the end is noticed by _the_one().
    harmless = ("Not found in archive", "due to previous errors")
    errors = [line for line in result.stderr.splitlines() if not line.endswith(harmless)]
    if result.returncode and (errors or not result.stderr):
        raise FetchError(f"cannot unpack {deb.name}: {'; '.join(errors)}")
    deb.unlink()


def _the_one(tree: Path, patterns: Iterable[str]) -> Path:
    found = [path for pattern in patterns for path in tree.glob(pattern)]
    if len(found) != 1:
        raise FetchError(f"expected one of {', '.join(patterns)} in the packages, found {len(found)}")
    return found[0]


def _decompress_modules(modules: Path) -> None:
    for path in modules.rglob("*.ko.xz"):
        path.with_suffix("").write_bytes(lzma.decompress(path.read_bytes()))
        path.unlink()


class _Apt:
    """apt with lists, state and sources of its own, one set for each kernel."""

    # Updating with another list of sources would delete what the lists directory knows of suites no longer in it;
    # hence one directory for each kernel.
    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        root = cache_dir() / "apt" / kernel.name
        for part in ("lists/partial", "cache/archives/partial"):
            (root / part).mkdir(parents=True, exist_ok=True)
        # Installed packages would take part in the resolution.
        (root / "status").write_text("")
        machine = list(machine_sources())
        lines = [_source_line(suite, machine) for suite in kernel.suites]
        (root / "sources.list").write_text("".join(line + "\n" for line in lines))
        self._options = [
            f"Dir::Etc::sourcelist={root}/sources.list",
            "Dir::Etc::sourceparts=-",
            f"Dir::State::lists={root}/lists",
            f"Dir::State::status={root}/status",
            f"Dir::Cache={root}/cache",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
            "APT::Architecture=amd64",
            # The unprivileged user that apt would download as cannot write into these directories.
            "APT::Sandbox::User=root",
        ]
        self._run("apt-get", "-qq", "update")

    def _run(self, tool: str, *arguments: str, cwd: Path | None = None) -> str:
        options = [word for option in self._options for word in ("-o", option)]
        command = [tool, *options, *arguments]
        result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        if result.returncode:
            raise FetchError(f"{tool} {shlex.join(arguments)} failed: {result.stderr.strip() or result.stdout.strip()}")
        return result.stdout

    def _records(self, package: str) -> list[dict[str, str]]:
        """Return what the suites know of a package, newest version first."""
        records = []
        for text in self._run("apt-cache", "show", package).split("\n\n"):
            fields = dict(
                line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" ")
            )
            if fields.get("Package") == package:
                records.append(fields)
        return records

    def versions(self) -> list[str]:
        """Return the versions that have both an image and debug information, or all that is asked for; newest first."""
        if self._kernel.image_only:
            return self._versions_of_series()
        image, debug = ([record["Version"] for record in self._records(name)] for name in self._kernel.metapackages)
        both = [version for version in dict.fromkeys(image) if version in debug]
        if not both:
            raise FetchError(
                f"kernel {self._kernel.name}: no version in {', '.join(self._kernel.suites)} has debug packages"
            )
        return both

    def _versions_of_series(self) -> list[str]:
        versions = {record["Version"] for name in self._image_names() for record in self._records(name)}
        if not versions:
            raise FetchError(
                f"kernel {self._kernel.name}: no image of this series is left in {', '.join(self._kernel.suites)}: "
                "put another one into tests/vm/matrix.py"
            )
        return sorted(versions, key=lambda version: [int(n) for n in re.findall(r"\d+", version)], reverse=True)

    def _image_names(self) -> list[str]:
        series, flavour = self._kernel.name.partition("-")[0], re.escape(self._kernel.flavour)
        names = self._run("apt-cache", "pkgnames", f"linux-image-{series}").split()
        pattern = rf"linux-image-{re.escape(series)}[.+][^-]*(-\d+)?-{flavour}"
        return [name for name in names if re.fullmatch(pattern, name)]

    def image_packages(self, version: str) -> set[str]:
        """Return the packages that make up the image of that version, found without a metapackage."""
        found = {name for name in self._image_names() if any(r["Version"] == version for r in self._records(name))}
        for name in sorted(found):
            found |= self._dependencies(name, version)
        return found

    def kernel_packages(self, metapackage: str, version: str) -> set[str]:
        """
        Return the packages that a metapackage stands for, followed through its dependencies.

        One package holds image and modules up to 7.1; from 7.2 it became empty and they are in linux-binary-* and
        linux-modules-*.
        """
        found = self._dependencies(metapackage, version)
        if not found:
            raise FetchError(f"{metapackage} {version} depends on no kernel package")
        return found

    def _dependencies(self, package: str, version: str) -> set[str]:
        found: set[str] = set()
        pending = [package]
        while pending:
            name = pending.pop()
            record = next((r for r in self._records(name) if r["Version"] == version), {})
            for dependency in record.get("Depends", "").split(","):
                match = re.match(r"\s*(linux-(?:image|binary|modules)-\d\S*)", dependency)
                if match and match[1] not in found:
                    found.add(match[1])
                    pending.append(match[1])
        return found

    def download(self, package: str, version: str, directory: Path) -> Path:
        """Download one package; apt verifies it."""
        before = set(directory.glob("*.deb"))
        self._run("apt-get", "-qq", "download", f"{package}={version}", cwd=directory)
        (deb,) = set(directory.glob("*.deb")) - before
        return deb


def _source_line(suite: str, machine: Sequence[Source]) -> str:
    """
    Return the line for one suite, on the mirror from which this machine gets its own suite of that kind.

    :raises FetchError: if the machine has no such mirror
    """
    own = _os_codename() + ("-security" if suite.endswith("-security") else "")
    mirrors = {source.suite: source for source in machine if "main" in source.components}
    mirror = mirrors.get(suite) or mirrors.get(own)
    if mirror is None:
        raise FetchError(
            f"apt on this machine knows no mirror for {suite}: the lab needs a machine, or a container, of the "
            f"distribution that builds its kernels"
        )
    # Of the indices, only the list of packages is of use here.
    options = "arch=amd64 target=Packages" + (f" signed-by={mirror.signed_by}" if mirror.signed_by else "")
    return f"deb [{options}] {mirror.uri} {suite} main"


def _os_codename() -> str:
    text = Path("/etc/os-release").read_text()
    match = re.search(r'^VERSION_CODENAME="?([^"\n]+)', text, re.MULTILINE)
    return match[1] if match else "(no codename)"


def machine_sources() -> Iterable[Source]:
    """Yield what the machine's own apt is configured to use, from both formats of its files."""
    for path in [APT_DIRECTORY / "sources.list", *sorted((APT_DIRECTORY / "sources.list.d").glob("*.list"))]:
        if path.exists():
            yield from _parse_one_line_format(path.read_text())
    for path in sorted((APT_DIRECTORY / "sources.list.d").glob("*.sources")):
        yield from _parse_deb822_format(path.read_text())


def _parse_one_line_format(text: str) -> Iterable[Source]:
    for line in text.splitlines():
        match = re.match(r"\s*deb\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]+)", line)
        if match:
            options = dict(option.split("=", 1) for option in (match[1] or "").split() if "=" in option)
            yield Source(match[2], match[3], tuple(match[4].split()), options.get("signed-by", ""))


def _parse_deb822_format(text: str) -> Iterable[Source]:
    # Comments go first: one may stand between two fields of a paragraph.
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in re.split(r"\n\s*\n", text):
        unfolded = re.sub(r"\n[ \t]+", " ", paragraph)
        fields = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in unfolded.splitlines())}
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "")
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                # An inline key would not fit on one line; the machine's trusted keys are used then.
                key = signed_by if signed_by.startswith("/") else ""
                yield Source(uri, suite, tuple(fields.get("components", "").split()), key)
