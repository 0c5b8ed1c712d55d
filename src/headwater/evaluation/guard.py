"""Runs one program that nobody has read, with as little power as the system lets it be given. A script of its own.

`sandbox.run` starts it in a fresh folder with `python -I guard.py LIMITS DESCRIPTOR`, the program on standard input. It
gives up its powers, says by what means on the descriptor, runs the program, and says there how it ended. It imports
nothing of Headwater.
"""

# ruff: noqa: D103, PTH  # starts fast: no pathlib

from __future__ import annotations

import ctypes
import json
import os
import platform
import resource
import struct
import sys

ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
EPERM, ENOSYS = 1, 38
CLONE_THREAD = 0x00010000

# Numbers of system calls (Linux, include/uapi/asm-generic/unistd.h and arch/x86/entry/syscalls/syscall_64.tbl): sockets,
# new programs, signals to others, other processes' memory, mounts, owners and modes of files, limits, the kernel.
FORBIDDEN = {
    "x86_64": (
        *(41, 57, 58, 59, 322, 101, 62, 200, 234, 129, 297, 424, 425, 165, 166, 272, 308, 161, 321, 298, 248, 250, 311),
        *(
            323,
            304,
            175,
            313,
            169,
            246,
            320,
            167,
            164,
            227,
            90,
            91,
            268,
            452,
            92,
            93,
            94,
            260,
            302,
            160,
            155,
            188,
            189,
            190,
        ),
    ),
    "aarch64": (
        *(
            198,
            221,
            281,
            117,
            129,
            130,
            131,
            138,
            240,
            424,
            425,
            40,
            39,
            97,
            268,
            51,
            280,
            241,
            217,
            219,
            271,
            282,
            265,
        ),
        *(105, 273, 142, 104, 294, 224, 170, 112, 52, 53, 452, 55, 54, 261, 164, 41, 5, 6, 7),
    ),
}
CLONE = {"x86_64": 56, "aarch64": 220}
CLONE3 = 435
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Rights of Landlock that change files, by the version of its interface that brought them.
WRITING = {1: 0x1FF2, 2: 1 << 13, 3: 1 << 14, 5: 1 << 15}


def limit(limits: dict[str, int]) -> None:
    for what, value in (
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_seconds"], limits["cpu_seconds"] + 1))  # SIGXCPU, then SIGKILL
    if hasattr(resource, "RLIMIT_NPROC") and not seccomp_possible():
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def seccomp_possible() -> bool:
    return sys.platform == "linux" and platform.machine() in FORBIDDEN


def confine_files(folder: str) -> bool:
    """Let this process change files below `folder` only (Landlock, Linux 5.13 and later)."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    version = libc.syscall(444, None, ctypes.c_size_t(0), 1)
    if version < 1:
        return False
    rights = sum(bits for since, bits in WRITING.items() if since <= version)
    scoped = 3 if version >= 6 else 0  # abstract sockets and signals to others
    attributes = struct.pack("QQQ", rights, 0, scoped)[: 24 if version >= 6 else 8]
    rules = libc.syscall(444, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    for path, allowed in ((folder, rights), ("/dev/null", 2)):
        descriptor = os.open(path, os.O_PATH)
        done = libc.syscall(445, rules, 1, struct.pack("=Qi", allowed, descriptor), 0)
        os.close(descriptor)
        if done:
            return False
    libc.prctl(38, 1, 0, 0, 0)
    done = libc.syscall(446, rules, 0)
    os.close(rules)
    return done == 0


def filter_calls() -> bool:
    """Forbid system calls (seccomp, Linux)."""
    if not seccomp_possible():
        return False
    machine = platform.machine()
    load, equal, at_least, masked, answer = 0x20, 0x15, 0x35, 0x45, 0x06
    denied = ERRNO | EPERM
    code = [(load, 0, 0, 4), (equal, 1, 0, ARCHITECTURE[machine]), (answer, 0, 0, KILL), (load, 0, 0, 0)]
    code += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, denied)]
    for number in FORBIDDEN[machine]:
        code += [(equal, 0, 1, number), (answer, 0, 0, denied)]
    code += [(equal, 0, 1, CLONE3), (answer, 0, 0, ERRNO | ENOSYS)]
    code += [(equal, 0, 3, CLONE[machine]), (load, 0, 0, 16), (masked, 1, 0, CLONE_THREAD), (answer, 0, 0, denied)]
    code += [(answer, 0, 0, ALLOW)]
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HxxxxxxP", len(code), ctypes.addressof(packed))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0):
        return False
    return libc.prctl(22, 2, program, 0, 0) == 0


def forbid_in_python(folder: str) -> None:
    """Where the system does not help: refuse what Python itself is asked to do. C code can get around this."""
    root = os.path.realpath(folder) + os.sep
    refused = ("socket.", "subprocess.", "os.fork", "os.exec", "os.posix_spawn", "os.system", "os.kill", "ctypes.")
    changing = (
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.mkdir",
        "os.chmod",
        "os.chown",
        "os.link",
        "os.symlink",
        "os.truncate",
    )

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event.startswith(refused):
            raise PermissionError(f"{event} is not allowed here")
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if writes or event in changing:
            path = arguments[0]
            inside = isinstance(path, int) or os.path.realpath(os.fsdecode(path)).startswith(root)  # type: ignore[arg-type]
            if not inside and path != os.devnull:
                raise PermissionError(f"{path!r} lies outside of the folder of this program")

    sys.addaudithook(hook)


def main() -> None:
    limits = json.loads(sys.argv[1])
    folder = os.getcwd()  # noqa: PTH109
    source = sys.stdin.buffer.read().decode("utf-8", "replace")
    told = os.fdopen(int(sys.argv[2]), "w")
    limit(limits)
    files = confine_files(folder)
    calls = filter_calls()
    if not (files and calls):
        forbid_in_python(folder)
    print(
        json.dumps({"files": "landlock" if files else "python", "calls": "seccomp" if calls else "python"}),
        file=told,
        flush=True,
    )
    space = {"__name__": "__main__", "__builtins__": __builtins__}
    try:
        exec(compile(source, "program.py", "exec"), space)
        sys.stdout.flush()
        fate = "passed"
    except MemoryError:
        space.clear()
        fate = "memory"
    except BaseException as error:
        fate = "failed: " + f"{type(error).__name__}: {error}".splitlines()[0][:200]
    print(json.dumps({"fate": fate}), file=told, flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
