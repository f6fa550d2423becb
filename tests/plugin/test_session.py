# SPDX-License-Identifier: LGPL-2.1-or-later
"""The commands in real drgn sessions: their help, what they say and return, and what they leave alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drgn_thp.commands import SUMMARIES
from tests.plugin import screens
from tests.plugin.screens import PAGE, bundled, pfn
from tests.plugin.terminal import Terminal, unpacked

MAX_IMPORT_MS = 15


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the bundled dump, unpacked."""
    return unpacked(bundled(), tmp_path_factory.mktemp("core"))


@pytest.fixture(scope="module")
def terminal(core: Path) -> Iterator[Terminal]:
    """Open a session."""
    with Terminal(core) as terminal:
        yield terminal


def test_screens_are_of_a_session(core: Path) -> None:
    """Must show 1: run ``python -m tests.plugin.screens`` after a change of any command."""
    assert screens.record(core) == PAGE.read_text(encoding="utf-8")


def test_every_command_is_there(terminal: Terminal) -> None:
    """Under its own name, and drgn knows what it does."""
    terminal.type("from drgn.commands import DEFAULT_COMMAND_NAMESPACE as namespace")
    for word, summary in SUMMARIES.items():
        assert terminal.type(f"namespace.lookup(prog, {word!r}).description()") == f"{summary!r}\n"


def test_nothing_is_said_at_the_start(terminal: Terminal) -> None:
    """Who does not want it does not notice it."""
    assert "drgn_thp" not in terminal.banner
    assert terminal.type("import sys; 'numpy' in sys.modules and 'drgn_thp.context' in sys.modules") in (
        "False\n",
        "True\n",  # another test of this session was first
    )


def test_output_goes_where_it_is_sent(terminal: Terminal, core: Path) -> None:
    """Pipes and redirections are drgn's."""
    whole = terminal.type("%thp 32")
    assert terminal.type("%thp 32 > listed.txt") == ""
    assert (core.parent / "listed.txt").read_text(encoding="utf-8") == whole
    assert terminal.type("%thp 32 | wc -l") == f"{whole.count(chr(10))}\n"


def test_answers_are_objects(terminal: Terminal) -> None:
    """What was listed is in ``_``, and is returned by drgn's own function."""
    terminal.type("%ksm 32")
    assert terminal.type("[record['balance'] for record in _]") == "[0, 0]\n"
    terminal.type("from drgn.commands import run_command")
    assert "\n2\n" in terminal.type("len(run_command(prog, 'ksm 32'))")
    terminal.type(f"%folio {pfn('thp_held')}")
    assert terminal.type("type(_[0]).__name__, _[0].refused") == "('Explanation', True)\n"


def test_mistakes_are_lines(terminal: Terminal) -> None:
    """No traceback, whatever is typed; and the session goes on."""
    for line in (
        "%folio",
        "%folio nonsense",
        "%folio pfn:0xfffffffffff",
        "%folio 1:0x1000",
        "%thp 99",
        "%thp --nonsense",
        "%refused nonsense",
        "%memblocks --path nonsense",
        "%reasons nonsense",
    ):
        answer = terminal.type(line)
        assert "Traceback" not in answer, answer
        assert re.search(r"^drgn: .", answer, re.MULTILINE), (line, answer)
    assert terminal.type("1 + 1") == "2\n"


def test_ctrl_c_ends_what_takes_long(terminal: Terminal) -> None:
    """What has been found is shown, and is said to be incomplete."""
    terminal.type("import drgn_thp.walk, os, signal")
    terminal.type("walk = drgn_thp.walk.Walk; read = walk._read")
    # What the terminal does, just when the second block is to be read.
    terminal.type("late = lambda pfn: pfn >= 0x108000 and os.kill(os.getpid(), signal.SIGINT)")
    terminal.type("walk._read = lambda self, pfn, *rest: late(pfn) or read(self, pfn, *rest)")
    answer = terminal.type("%thp 32-35")
    terminal.type("walk._read = read")
    assert "INCOMPLETE: interrupted" in answer
    assert "Traceback" not in answer
    assert answer.startswith("19 large folios")
    assert "INCOMPLETE" not in terminal.type("%thp 32-35")


def test_with_the_helpers(terminal: Terminal) -> None:
    """The line that the documentation tells to type, and the types that a command brought."""
    terminal.type("%reasons slab")
    assert terminal.type("from drgn_thp import *") == ""
    assert terminal.type(f"page_mapcount(pfn_to_page({pfn('thp')}))") == "1\n"


# -- without a terminal ------------------------------------------------------------------------------------------------


def python(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python with nothing loaded."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_the_import_costs_nothing() -> None:
    """drgn waits for it at each start; numpy alone would cost ten times as much. Others use the processor, too."""
    code = (
        "import sys, time, drgn.commands; before = time.process_time(); import drgn_thp.plugin; "
        "print('numpy' in sys.modules, time.process_time() - before)"
    )
    runs = [python(code).stdout.split() for _ in range(3)]
    assert all(heavy == "False" for heavy, _ in runs)
    assert min(float(seconds) for _, seconds in runs) * 1000 <= MAX_IMPORT_MS


def test_an_old_drgn_is_left_alone() -> None:
    """Where drgn has no commands there are none, and only who asks is told."""
    code = "import sys; sys.modules['drgn.commands'] = None; import {}drgn_thp.plugin"
    result = python(code.format(""))
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    result = python(code.format("logging; logging.basicConfig(level=logging.DEBUG); import "))
    assert "this drgn has no commands" in result.stderr


def test_a_word_of_drgn_stays_drgns() -> None:
    """A later drgn may have a command of the same name."""
    code = (
        "import drgn.commands\n"
        "names = drgn.commands.DEFAULT_COMMAND_NAMESPACE\n"
        "names.register('thp', 'its own')\n"
        "import drgn_thp.plugin\n"
        "print(names._commands['thp'], 'ksm' in names._commands)"
    )
    assert python(code).stdout == "its own True\n"


def test_the_entry_point_names_the_plugin() -> None:
    """Installing is enough."""
    pyproject = (PAGE.parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '[project.entry-points."drgn.plugins"]\ndrgn_thp = "drgn_thp.plugin"\n' in pyproject


def test_the_commands_are_those_of_the_page() -> None:
    """None is left out."""
    assert re.findall(r"^## %(\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE) == list(SUMMARIES)
