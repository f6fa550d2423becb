# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the path of a cgroup says of containers."""

from __future__ import annotations

import pytest

from drgn_thp.cgroups import Container, container_of

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
POD = "0f1d7a62-3c4b-4e5f-8a9b-0123456789ab"


@pytest.mark.parametrize(
    ("path", "container"),
    [
        ("/", None),
        ("/user.slice/user-1000.slice/session-2.scope", None),
        ("/system.slice/docker.service", None),
        (f"/docker/{ID}", Container("docker", ID)),
        (f"/system.slice/docker-{ID}.scope", Container("docker", ID)),
        (f"/system.slice/docker-{ID}.scope/inner", Container("docker", ID)),
        (f"/system.slice/docker-{ID[:12]}.scope", None),
        (f"/machine.slice/libpod-{ID}.scope/container", Container("podman", ID)),
        (f"/libpod_parent/libpod-{ID}", Container("podman", ID)),
        (f"/kubepods/burstable/pod{POD}/{ID}", Container("kubernetes", ID, POD)),
        (
            f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{POD.replace('-', '_')}.slice"
            f"/cri-containerd-{ID}.scope",
            Container("containerd", ID, POD),
        ),
        (f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/crio-{ID}.scope", Container("cri-o", ID, POD)),
        ("/lxc/web/init.scope", Container("lxc", "web")),
        ("/lxc.payload.web/system.slice", Container("lxc", "web")),
        ("/machine.slice/systemd-nspawn@build.service/payload", Container("nspawn", "build")),
        (f"/lxc/web/docker/{ID}", Container("docker", ID)),
        (f"/docker/{OTHER}/docker/{ID}", Container("docker", ID)),
        (f"/docker/{ID}\x1b[2J", None),
    ],
)
def test_containers(path: str, container: Container | None) -> None:
    """As the programs that make them name their cgroups."""
    assert container_of(path) == container


def test_short_form() -> None:
    """Twelve digits are what people know a container by."""
    assert str(Container("docker", ID)) == "docker:0123456789ab"
    assert str(Container("lxc", "web")) == "lxc:web"
