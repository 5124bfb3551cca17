"""What the seccomp filter that the kernel holds for a process allows, read from outside.

    filter.py PID      its newest filter, as JSON: {"allowed": [...], "argument_checked": [...],
                       "answered": {call: errno, ...}}

The filter is read with ptrace(2), PTRACE_SECCOMP_GET_FILTER, and followed for every call's number along
every path that its arguments may take. Knows nothing of Fastness' profiles. Root only.
"""

import ctypes
import json
import re
import struct
import subprocess
import sys

SEIZE, INTERRUPT, GET_FILTER = 0x4206, 0x4207, 0x420C
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def read_filter(pid):
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.restype = ctypes.c_long
    libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]

    def ptrace(*arguments):
        result = libc.ptrace(*arguments)
        if result < 0:
            raise OSError(ctypes.get_errno(), f"ptrace {arguments[0]:#x} of {pid}")
        return result

    ptrace(SEIZE, pid, None, None)
    ptrace(INTERRUPT, pid, None, None)
    libc.waitpid(pid, None, 0x40000000)
    with open(f"/proc/{pid}/status") as status:
        count = int(re.search(r"^Seccomp_filters:\s*(\d+)", status.read(), re.M).group(1))
    # The oldest is number 0.
    length = ptrace(GET_FILTER, pid, count - 1, None)
    buffer = ctypes.create_string_buffer(8 * length)
    ptrace(GET_FILTER, pid, count - 1, ctypes.addressof(buffer))
    return list(struct.iter_unpack("=HBBI", buffer.raw))


def ends(program, number, architecture):
    """Every value that the program can return for this call, whatever its arguments are."""
    found, seen, paths = set(), set(), [(0, None)]
    while paths:
        at, register = state = paths.pop()
        if state in seen:
            continue
        seen.add(state)
        code, true, false, k = program[at]
        if code == 0x20:  # LD W ABS
            paths.append((at + 1, {0: number, 4: architecture}.get(k)))
        elif code == 0x54:  # ALU AND K
            paths.append((at + 1, None if register is None else register & k))
        elif code == 0x05:  # JA
            paths.append((at + 1 + k, register))
        elif code in (0x15, 0x25, 0x35, 0x45):  # JEQ, JGT, JGE, JSET
            if register is None:
                paths += [(at + 1 + true, None), (at + 1 + false, None)]
            else:
                taken = {
                    0x15: register == k,
                    0x25: register > k,
                    0x35: register >= k,
                    0x45: bool(register & k),
                }[code]
                paths.append((at + 1 + (true if taken else false), register))
        elif code == 0x06:  # RET K
            found.add(k)
        else:
            raise ValueError(f"an instruction that nobody expects: {code:#x}")
    return found


def calls():
    """Names and numbers of this machine's calls, from the C library's headers."""
    text = subprocess.run(
        ["cc", "-E", "-dM", "-include", "sys/syscall.h", "-x", "c", "/dev/null"],
        check=True, capture_output=True, text=True,
    ).stdout
    # Headers may be older than the kernel and our profiles.
    newer = {"mseal": 462}
    return newer | {name: int(number) for name, number in re.findall(r"#define __NR_(\w+) (\d+)\b", text)}


def main():
    architecture = AUDIT_ARCH[subprocess.check_output(["uname", "-m"], text=True).strip()]
    program = read_filter(int(sys.argv[1]))
    names = {number: name for name, number in calls().items()}
    result = {"allowed": [], "argument_checked": [], "answered": {}}
    for number in range(1024):
        found = ends(program, number, architecture)
        name = names.get(number, f"call {number}")
        errors = sorted(end & 0xFFFF for end in found if end & 0xFFFF0000 == ERRNO)
        if errors:
            result["answered"][name] = errors[0]
        if ALLOW in found:
            result["allowed"].append(name)
            if KILL in found:
                result["argument_checked"].append(name)
    for calls_of in ("allowed", "argument_checked"):
        result[calls_of].sort()
    # Another architecture's table, and x32's numbers, must be closed.
    for number in range(0, 1024):
        assert ends(program, number, 0x40000003) == {KILL}, "i386"
        assert ends(program, number | 0x40000000, architecture) == {KILL}, "x32"
    print(json.dumps(result))


if __name__ == "__main__":
    main()
