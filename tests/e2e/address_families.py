"""A program under the filter that systemd makes of RestrictAddressFamilies=: sockets of no other family can be opened.

    python address_families.py "AF_UNIX AF_INET" PROGRAM ARGUMENTS...

It needs no privileges: a process that can gain none (no_new_privs) may install filters.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
import sys
from collections.abc import Sequence

SYSCALL_SOCKET = {"x86_64": 41, "aarch64": 198}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
OFFSET_NUMBER, OFFSET_FIRST_ARGUMENT = 0, 16
ALLOW, FAIL_WITH = 0x7FFF0000, 0x00050000


class Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def instructions(families: Sequence[int]) -> bytes:
    """A filter that allows everything except socket() with a family that is not in the list."""
    count = len(families)
    return b"".join(
        [
            instruction(LOAD, OFFSET_NUMBER),
            instruction(JUMP_IF_EQUAL, SYSCALL_SOCKET[platform.machine()], if_false=count + 2),
            instruction(LOAD, OFFSET_FIRST_ARGUMENT),
            *(instruction(JUMP_IF_EQUAL, family, count - at) for at, family in enumerate(families)),
            instruction(RETURN, FAIL_WITH | errno.EAFNOSUPPORT),
            instruction(RETURN, ALLOW),
        ]
    )


def restrict(families: Sequence[int]) -> None:
    """Install the filter in this process; it also holds after exec."""
    code = instructions(families)
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(len(code) // 8, ctypes.addressof(buffer))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    mode = (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0)
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(*mode):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    restrict([int(getattr(socket, name)) for name in sys.argv[1].split()])
    os.execvp(sys.argv[2], sys.argv[2:])
