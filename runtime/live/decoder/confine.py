"""What a decoder process gives up before it reads a byte from a stranger. On Linux; elsewhere the limits that the system has.

memory     RLIMIT_DATA over what the libraries took        files      none is written (RLIMIT_FSIZE, and the filter)
programs   none is started (filter)                        network    none, once its camera is connected (filter)
others     no process is traced or signalled (filter)

The filter is seccomp: a short program that the kernel runs over every system call (man 2 seccomp). It names what decoding never
needs; what it names fails with EPERM, and the decoder goes on.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FILES = 64  # open at once


@dataclass(frozen=True)
class Machine:
    """A processor architecture. audit: its number in linux/audit.h. calls: numbers of system calls, those that it has."""

    audit: int
    calls: dict[str, int]


# asm/unistd_64.h and asm-generic/unistd.h; numbers from 424 on are the same everywhere
_NEW = {
    "pidfd_send_signal": 424, "io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "pidfd_open": 434,
    "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "clone3": 435, "fchmodat2": 452,
}  # fmt: skip
_X86 = {
    "open": 2, "creat": 85, "openat": 257, "clone": 56, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62, "tkill": 200,
    "tgkill": 234, "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311,
    "socket": 41, "socketpair": 53, "connect": 42, "bind": 49, "listen": 50, "accept": 43, "accept4": 288, "rename": 82, "renameat": 264,
    "renameat2": 316, "mkdir": 83, "mkdirat": 258, "rmdir": 84, "link": 86, "linkat": 265, "symlink": 88, "symlinkat": 266, "unlink": 87,
    "unlinkat": 263, "mknod": 133, "mknodat": 259, "truncate": 76, "chmod": 90, "fchmodat": 268, "chown": 92, "lchown": 94, "fchownat": 260,
    "utimensat": 280, "setxattr": 188, "lsetxattr": 189, "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "unshare": 272,
    "setns": 308, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250,
    "init_module": 175, "finit_module": 313, "kexec_load": 246, "inotify_init1": 294, "fanotify_init": 300, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "prlimit64": 302, "setrlimit": 160, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240,
    "fcntl": 72, "ioctl": 16, "mmap": 9, "fchmod": 91, "fchown": 93, "utime": 132, "utimes": 235, "futimesat": 261, "fsetxattr": 190,
    "setpriority": 141, "sched_setaffinity": 203, "sched_setscheduler": 144, "sched_setparam": 142, "sched_setattr": 314,
    "ioprio_set": 251, "memfd_create": 319,
}  # fmt: skip
_ARM = {
    "openat": 56, "clone": 220, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130, "tgkill": 131, "rt_sigqueueinfo": 138,
    "rt_tgsigqueueinfo": 240, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "socket": 198, "socketpair": 199,
    "connect": 203, "bind": 200, "listen": 201, "accept": 202, "accept4": 242, "renameat": 38, "renameat2": 276, "mkdirat": 34,
    "linkat": 37,
    "symlinkat": 36, "unlinkat": 35, "mknodat": 33, "truncate": 45, "fchmodat": 53, "fchownat": 54, "utimensat": 88, "setxattr": 5,
    "lsetxattr": 6, "mount": 40, "umount2": 39, "pivot_root": 41, "chroot": 51, "unshare": 97, "setns": 268, "bpf": 280,
    "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219, "init_module": 105, "finit_module": 273,
    "kexec_load": 104, "inotify_init1": 26, "fanotify_init": 262, "name_to_handle_at": 264, "open_by_handle_at": 265, "prlimit64": 261,
    "setrlimit": 164, "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180,
    "fcntl": 25, "ioctl": 29, "mmap": 222, "fchmod": 52, "fchown": 55, "fsetxattr": 7, "setpriority": 140, "sched_setaffinity": 122,
    "sched_setscheduler": 119, "sched_setparam": 118, "sched_setattr": 274, "ioprio_set": 30, "memfd_create": 279,
}  # fmt: skip
MACHINES = {"x86_64": Machine(0xC000003E, _X86 | _NEW), "aarch64": Machine(0xC00000B7, _ARM | _NEW)}
NETWORK = ("socket", "socketpair", "connect", "bind", "listen", "accept", "accept4")
OWN_ONLY = ("kill", "tgkill")  # allowed towards this process
# calls that are refused with these values of one argument: signals to others through a descriptor (F_SETOWN, F_SETSIG, F_SETOWN_EX;
# FIOSETOWN, SIOCSPGRP), which no filter of kill sees
REFUSED_VALUES = {"fcntl": (1, (8, 10, 15)), "ioctl": (1, (0x8901, 0x8902))}
SHARED_WITHOUT_FILE = 0x21  # mmap's MAP_SHARED | MAP_ANONYMOUS, memory that RLIMIT_DATA does not count

LOAD, AND, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x54, 0x15, 0x45, 0x06  # linux/bpf_common.h: word loads, jumps against a constant
JUMP_NOT_LESS = 0x35
ALLOW, ERROR, KILL = 0x7FFF0000, 0x00050000, 0x80000000  # linux/seccomp.h
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
CLONE_THREAD = 0x00010000
PR_SET_NO_NEW_PRIVS, TO_ALL_THREADS = 38, 1


def limit(memory: int) -> bool:
    """Resources, and everything but the network. memory: bytes over what the process has now, before it fails to get more.

    Returns whether there is a filter.
    """
    import resource

    def at_most(what: int, amount: int) -> None:
        with suppress(ValueError, OSError):  # a lower limit stands already
            resource.setrlimit(what, (amount, amount))

    at_most(resource.RLIMIT_CORE, 0)
    at_most(resource.RLIMIT_FSIZE, 0)
    at_most(resource.RLIMIT_NOFILE, FILES)
    taken = _data_bytes()
    if taken is not None:
        at_most(resource.RLIMIT_DATA, taken + memory)
    return _filter([call for call in (MACHINES[platform.machine()].calls if platform.machine() in MACHINES else ()) if call not in NETWORK])


def leave_network() -> None:
    """No further connection, from now on and for all threads: the camera's is open."""
    _filter(NETWORK)


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts of this process."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData:")), None)


def _filter(calls: Sequence[str]) -> bool:
    machine = MACHINES.get(platform.machine())
    if machine is None or not calls or not hasattr(os, "memfd_create"):
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    program = b"".join(struct.pack("HBBI", *step) for step in program_of(calls, machine))
    memory = ctypes.create_string_buffer(program)

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    whole = Program(len(program) // 8, ctypes.addressof(memory))
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    seccomp = 317 if platform.machine() == "x86_64" else 277
    return bool(libc.syscall(seccomp, 1, TO_ALL_THREADS, ctypes.byref(whole)) == 0)


def program_of(calls: Sequence[str], machine: Machine) -> list[tuple[int, int, int, int]]:
    """The steps (code, jump if true, jump if false, constant) of a filter that refuses ``calls``."""
    refuse, missing, allow = (RETURN, 0, 0, ERROR | errno.EPERM), (RETURN, 0, 0, ERROR | errno.ENOSYS), (RETURN, 0, 0, ALLOW)
    steps = [
        (LOAD, 0, 0, ARCHITECTURE),
        (JUMP_EQUAL, 1, 0, machine.audit),
        (RETURN, 0, 0, KILL),  # calls of another architecture have other numbers
        (LOAD, 0, 0, NUMBER),
    ]
    if machine.audit == MACHINES["x86_64"].audit:
        steps += [(JUMP_NOT_LESS, 0, 1, 0x40000000), refuse]  # x32's numbers

    for name in calls:
        number = machine.calls.get(name)
        if number is None:
            continue
        if name in ("open", "openat"):
            flags = ARGUMENTS + 8 * (1 if name == "open" else 2)
            body = [(LOAD, 0, 0, flags), (JUMP_SET, 0, 1, WRITES), refuse, allow]
        elif name == "clone":
            body = [(LOAD, 0, 0, ARGUMENTS), (JUMP_SET, 1, 0, CLONE_THREAD), refuse, allow]
        elif name == "clone3":  # its flags lie in memory; without it the C library takes clone
            body = [missing]
        elif name in REFUSED_VALUES:
            which, values = REFUSED_VALUES[name]
            body = [(LOAD, 0, 0, ARGUMENTS + 8 * which)]
            body += [(JUMP_EQUAL, len(values) - place, 0, value) for place, value in enumerate(values)]
            body += [allow, refuse]
        elif name == "mmap":
            shared = SHARED_WITHOUT_FILE
            body = [(LOAD, 0, 0, ARGUMENTS + 8 * 3), (AND, 0, 0, shared), (JUMP_EQUAL, 0, 1, shared), refuse, allow]
        elif name in OWN_ONLY:
            body = [(LOAD, 0, 0, ARGUMENTS), (JUMP_EQUAL, 1, 0, os.getpid()), refuse, allow]
        else:
            body = [refuse]
        steps += [(JUMP_EQUAL, 0, len(body), number), *body]
    return [*steps, allow]
