# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is left of a folio's references, and of its pins, when all holders that were found are taken off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from .. import formulas
from ..context import Context
from ..folios import Folios
from ..kernel import GUP_PIN_COUNTING_BIAS
from ..suspects import Suspects
from .files import Files
from .model import Owner
from .running import Findings, Held, find_holders


@dataclass(frozen=True)
class Sheet:
    """
    The balance of one folio of a process or file.

    :ivar holders: Each holder, the references that are explained by it (pins included, by what they weigh here), and
        the processes that have it: process ID, command, descriptor or None
    :ivar unexplained: References for which nobody was found; negative if more was found than there is, which is an
        error of ours
    :ivar unexplained_pins: The same of pins, as far as they are counted
    :ivar cgroups: Of these processes, as far as they are known
    """

    pfn: int
    holders: tuple[tuple[Held, int, tuple[tuple[int, str, int | None], ...]], ...]
    unexplained: int
    unexplained_pins: int
    cgroups: dict[int, str | None] = field(default_factory=dict)

    @property
    def explained(self) -> int:
        """References that are explained by the holders."""
        return sum(references for _, references, _ in self.holders)

    @property
    def overdrawn(self) -> bool:
        """Return whether more was found than there is: an error of drgn_thp."""
        return self.unexplained < 0 < self.explained

    @property
    def passing(self) -> bool:
        """Return whether all references that mm does not expect are held by what lets go of them by itself."""
        held = [held for held, references, _ in self.holders if references]
        return self.unexplained == 0 and bool(held) and all(one.transient for one in held)

    def records(self) -> list[dict[str, Any]]:
        """Return the holders as records."""
        result = []
        for held, references, processes in self.holders:
            pid, comm, fd = processes[0] if processes else (None, None, None)
            owner = held.owner
            result.append(
                {
                    "kind": held.kind,
                    "owner": owner.what,
                    "pid": pid,
                    "comm": comm,
                    "fd": fd,
                    "cgroup": self.cgroups.get(pid or 0),
                    "processes": len({process[0] for process in processes}),
                    "cpu": owner.cpu,
                    "device": owner.device or None,
                    "refs": references,
                    "pins": held.pins,
                    "exact": held.exact,
                    "transient": held.transient,
                }
            )
        return result


class Balance:
    """The sheets of the folios of a table, each made when it is asked for."""

    def __init__(self, f: Folios, findings: Findings) -> None:
        self._findings = findings
        self._processes = findings.files.context.processes
        self._pfn = f.pfn
        self._user = formulas.is_user(f)
        self._extra, self._pins = formulas.extra_references(f), formulas.pins(f)
        self._counted = formulas.folio_has_pincount(f)

    def sheet(self, row: int) -> Sheet | None:
        """Return the balance of the folio in a row; None of the kernel's own pages, which have none."""
        if not self._user[row]:
            return None
        pfn = int(self._pfn[row])
        weight = 1 if self._counted[row] else GUP_PIN_COUNTING_BIAS
        held = _possible(self._findings.of(pfn), int(self._pins[row]))
        references = [0 if one.expected else one.gets + weight * one.pins for one in held]
        rows = tuple(
            (_named(self._findings, one), number, _processes(self._findings, one))
            for one, number in zip(held, references)
        )
        rows = tuple(sorted(rows, key=lambda row: (-row[1], row[0].kind, row[0].owner.what)))
        found_pins = sum(one.pins for one in held if not one.expected)
        cgroups = {who[0][0]: self._cgroup(who[0][0]) for _, _, who in rows if who}
        return Sheet(pfn, rows, int(self._extra[row]) - sum(references), int(self._pins[row]) - found_pins, cgroups)

    def _cgroup(self, pid: int) -> str | None:
        task = self._processes.by_pid.get(pid)
        return None if task is None else task.cgroup


def sheets(context: Context, f: Folios, findings: Findings | None = None) -> Iterator[Sheet]:
    """
    Yield the balance of each folio; the kernel's own pages have none, and are left out.

    :param findings: What was found of these folios; found now if not given
    """
    if findings is None:
        findings = find_holders(context, Suspects(f.pfn, formulas.nr_pages(f)))
    balance = Balance(f, findings)
    for row in range(len(f)):
        sheet = balance.sheet(row)
        if sheet is not None:
            yield sheet


def _possible(held: list[Held], pins: int) -> list[Held]:
    """Leave out inferred pins where the exact ones are all that there are: what is at the address is another page."""
    left = pins - sum(one.pins for one in held if one.exact and not one.expected)
    return [one for one in held if one.exact or not one.pins or left > 0]


def _processes(findings: Findings, held: Held) -> tuple[tuple[int, str, int | None], ...]:
    """Return process ID, command and descriptor of all who have what holds a page."""
    owner, files = held.owner, findings.files
    found = _descriptors(files, (owner.file, *owner.more_files))
    if not found:
        found = _descriptors(files, (keeper for _, keeper in _keepers(findings, owner)))
    if owner.mm:
        found += [(task.tgid, task.comm, None) for task in files.processes["mm"].get(owner.mm, ())]
    if owner.task and owner.task in files.tasks.by_address:
        task = files.tasks.by_address[owner.task]
        found.append((task.tgid, task.comm, None))
    return tuple(dict.fromkeys(found))


def _descriptors(files: Files, wanted: Iterable[int]) -> list[tuple[int, str, int | None]]:
    return [(d.pid, d.comm, d.fd) for file in wanted if file for d in files.descriptors(file)]


def _keepers(findings: Findings, owner: Owner) -> list[tuple[str, int]]:
    """Return how the files of an owner are kept by other files, and by which."""
    return [one for file in (owner.file, *owner.more_files) if file for one in findings.kept.keepers(file)]


def _named(findings: Findings, held: Held) -> Held:
    """Say of a file that is in no descriptor table where it is instead."""
    owner = held.owner
    if not owner.file or _descriptors(findings.files, (owner.file, *owner.more_files)):
        return held
    how = dict.fromkeys(how for how, _ in _keepers(findings, owner))
    return replace(held, owner=replace(owner, what=", ".join((owner.what, *how)))) if how else held
