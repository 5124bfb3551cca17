"""Runs a program under a seccomp filter that allows everything, as a container's or a unit's often nearly does.

    filtered.py PROGRAM [ARGUMENT ...]
"""

import ctypes
import os
import sys

SET_SECCOMP, SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2
RETURN, ALLOW = 0x06, 0x7FFF0000


class Instruction(ctypes.Structure):
    _fields_ = [("code", ctypes.c_ushort), ("true", ctypes.c_ubyte), ("false", ctypes.c_ubyte), ("k", ctypes.c_uint)]


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]


def main():
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(1, ctypes.pointer(Instruction(RETURN, 0, 0, ALLOW)))
    zero = ctypes.c_ulong(0)
    for arguments in (
        (SET_NO_NEW_PRIVS, ctypes.c_ulong(1), zero, zero, zero),
        (SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), ctypes.byref(program), zero, zero),
    ):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execv(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
