"""Which system calls processes make, as the kernel's tracepoint tells it (raw_syscalls:sys_enter).

    calls.py WRAPPER PROGRAM

Writes WRAPPER, a script that runs PROGRAM so that it and all that it starts are seen, and prints "ready".
Reads one line: {call: [index, ...], ...}, the arguments that matter. Prints as JSON, each kind of call once:
[{"pid": process, "filters": seccomp filters that it has installed by then, "call": name, "arguments": [6],
"count": n}, ...]. Root only; needs tracefs, and mounts it for itself where it is not.
"""

import collections
import json
import os
import re
import subprocess
import sys
import tempfile
import threading

from filter import calls

LINE = re.compile(r"-(\d+)\s+\(\s*(\d+|-+)\)\s+\[\d+\].*?: sys_enter: NR (-?\d+) \(([0-9a-f, ]+)\)")


def tracing():
    for folder in ("/sys/kernel/tracing", "/sys/kernel/debug/tracing"):
        if os.path.exists(f"{folder}/instances"):
            return folder
    folder = tempfile.mkdtemp(prefix="fastness-tracing-")
    subprocess.run(["mount", "-t", "tracefs", "tracefs", folder], check=True)
    return folder


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def main():
    wrapper, program = sys.argv[1:]
    folder = tracing()
    instance = f"{folder}/instances/fastness-{os.getpid()}"
    os.mkdir(instance)
    try:
        follow(wrapper, program, instance)
    finally:
        write(f"{instance}/tracing_on", "0")
        os.rmdir(instance)
        if folder.startswith(tempfile.gettempdir()):
            subprocess.run(["umount", folder], check=True)
            os.rmdir(folder)


def follow(wrapper, program, instance):
    write(f"{instance}/buffer_size_kb", "8192")
    write(f"{instance}/options/event-fork", "1")
    write(f"{instance}/options/record-tgid", "1")
    # An empty list would be everybody. Process 2 starts kernel threads, which make no system calls; we
    # ourselves would see our own reading, and never come to its end.
    write(f"{instance}/set_event_pid", "2")
    write(f"{instance}/events/raw_syscalls/sys_enter/enable", "1")
    write(wrapper, f'#!/bin/sh\necho $$ >>{instance}/set_event_pid\nexec {program} "$@"\n')
    os.chmod(wrapper, 0o755)
    names = {number: name for name, number in calls().items()}
    installing = calls()["seccomp"]
    seen, filters = collections.Counter(), collections.Counter()
    raw, stop = [], threading.Event()

    def read():
        pipe = os.open(f"{instance}/trace_pipe", os.O_RDONLY | os.O_NONBLOCK)
        rest = b""
        while True:
            # What was there when we were told to stop is read to its end.
            last = stop.is_set()
            try:
                chunk = os.read(pipe, 1 << 16)
            except BlockingIOError:
                if last:
                    break
                stop.wait(0.02)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            raw.extend(lines)
        os.close(pipe)

    reader = threading.Thread(target=read)
    reader.start()
    print("ready", flush=True)
    interesting = json.loads(sys.stdin.readline())
    stop.set()
    reader.join()
    found = [match for match in (LINE.search(line.decode(errors="replace")) for line in raw) if match]
    # The kernel learns which process a thread is of when it is scheduled for the first time.
    process_of = {one.group(1): int(one.group(2)) for one in found if one.group(2).isdigit()}
    for one in found:
        pid, number = process_of.get(one.group(1), int(one.group(1))), int(one.group(3))
        arguments = [int(word, 16) for word in one.group(4).split(",")]
        if number == installing and arguments[0] == 1:
            filters[pid] += 1
            # The call itself is made under those before it.
            key = (pid, filters[pid] - 1)
        else:
            key = (pid, filters[pid])
        name = names.get(number, f"call {number}")
        matter = interesting.get(name, [])
        kept = tuple(argument if index in matter else 0 for index, argument in enumerate(arguments))
        seen[(*key, name, kept)] += 1
    lost = 0
    for cpu in os.listdir(f"{instance}/per_cpu"):
        with open(f"{instance}/per_cpu/{cpu}/stats") as stats:
            lost += sum(int(n) for n in re.findall(r"^(?:overrun|dropped events): (\d+)", stats.read(), re.M))
    print(json.dumps({
        "lost": lost,
        "calls": [
            {"pid": pid, "filters": count, "call": name, "arguments": arguments, "count": times}
            for (pid, count, name, arguments), times in sorted(seen.items())
        ],
    }), flush=True)


if __name__ == "__main__":
    main()
