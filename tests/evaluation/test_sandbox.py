from __future__ import annotations

import sys
from pathlib import Path

import pytest

from headwater.evaluation.sandbox import FAILED, KILLED, MEMORY, PASSED, TIMEOUT, Limits, run

LIMITS = Limits(cpu_seconds=1, seconds=4.0, memory_bytes=256 << 20, file_bytes=100_000)
linux = pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's")


def test_a_program_that_ends_well_has_passed():
    ran = run(
        "import math, collections\nprint(math.pi)\nopen('own.txt', 'w').write('x')\nassert open('own.txt').read() == 'x'"
    )
    assert (ran.fate, ran.output) == (PASSED, "3.141592653589793\n")


@pytest.mark.parametrize(
    ("program", "detail"),
    [
        ("assert 1 == 2, 'wrong'", "AssertionError: wrong"),
        ("def f(:", "SyntaxError"),
        ("exit()", "SystemExit"),
        ("import os; os._exit(0)", "it ended itself with code 0"),
        ("def f(): f()\nf()", "RecursionError"),
        (
            "import os\nfor fd in range(3, 9):\n  try: os.write(fd, b'{oops}\\n')\n  except OSError: pass\nexit()",
            "SystemExit",
        ),
    ],
)
def test_a_program_that_does_not_end_well_has_failed(program, detail):
    ran = run(program, LIMITS)
    assert ran.fate == FAILED
    assert detail in ran.detail


@linux
def test_a_program_is_fenced_in(tmp_path):
    """Each of these must be refused by the system, whatever Python itself would do."""
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    attempts = {
        "fork": "import os; os.fork()",
        "start a program": "import subprocess; subprocess.run(['/bin/true'])",
        "connect": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
        "write outside": f"open({str(victim)!r}, 'w').write('changed')",
        "remove outside": f"import os; os.remove({str(victim)!r})",
        "write through a link": f"import os; os.symlink({str(tmp_path)!r}, 'link'); open('link/victim', 'w')",
        "kill": "import os; os.kill(os.getppid(), 9)",
        "lift limits": "import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        "change modes": f"import os; os.chmod({str(victim)!r}, 0o777)",
        "connect by libc": "import ctypes; assert ctypes.CDLL(None).socket(2, 1, 0) >= 0",
        "fork by libc": "import ctypes; assert ctypes.CDLL(None).fork() >= 0",
    }
    for what, program in attempts.items():
        ran = run(program, LIMITS)
        assert ran.fate == FAILED, f"{what}: {ran}"
    assert victim.read_text() == "untouched"
    assert ran.means == "files: landlock, calls: seccomp"


def test_hooks_of_python_refuse_the_same_where_the_system_does_not(tmp_path):
    """The fallback, in a process of its own: files outside, sockets, processes."""
    guard = Path(sys.modules[run.__module__].__file__).with_name("guard.py")
    victim = tmp_path / "victim"
    program = (
        "import importlib.util as u, socket, subprocess, os\n"
        f"spec = u.spec_from_file_location('guard', {str(guard)!r}); guard = u.module_from_spec(spec)\n"
        "spec.loader.exec_module(guard); guard.forbid_in_python(os.getcwd())\n"
        "open('inside', 'w').close()\n"
        "def refused(attempt):\n"
        "    try:\n        attempt()\n"
        "    except PermissionError as error:\n        return 'allowed here' in str(error) or 'outside' in str(error)\n"
        f"assert refused(lambda: open({str(victim)!r}, 'w'))\n"
        f"assert refused(lambda: os.mkdir({str(victim)!r}))\n"
        "assert refused(lambda: socket.socket())\n"
        "assert refused(lambda: subprocess.Popen(['true']))\n"
    )
    assert run(program).fate == PASSED
    assert not victim.exists()


def test_a_program_that_hangs_eats_or_floods_is_stopped():
    assert run("while True: pass", LIMITS).fate == TIMEOUT
    assert run("import time\ntime.sleep(600)", Limits(seconds=1.0)).fate == TIMEOUT
    assert run("kept = []\nwhile True: kept.append(bytearray(10**7))", LIMITS).fate == MEMORY
    flood = run("while True: print('y' * 10_000)", LIMITS)
    assert (flood.fate, len(flood.output)) == (FAILED, 10_000)
    assert run("import ctypes\nctypes.string_at(0)", LIMITS).fate == KILLED


def test_a_program_that_fills_the_disk_is_stopped():
    limits = Limits(cpu_seconds=8, seconds=15.0, folder_bytes=2_000_000)
    ran = run("n = 0\nwhile True:\n    n += 1\n    open(str(n), 'w').write('x' * 100)", limits)
    assert (ran.fate, ran.detail) == (KILLED, "its files take more than 2,000,000 bytes")
