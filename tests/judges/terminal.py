"""Somebody at a terminal (pty(7)): runs a command there and types into its prompts.

    terminal.py LINE… -- COMMAND…      LINE: what is typed at each prompt; ^C is Ctrl-C

A prompt ends with a colon and a blank. Prints, as JSON, what the terminal showed, the command's exit code, and whether
the terminal echoes at each prompt, and at the end."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios


def echoes(fd):
    return bool(termios.tcgetattr(fd)[3] & termios.ECHO)


def main():
    # A prompt that never comes must not hold a test.
    signal.alarm(50)
    cut = sys.argv.index("--")
    lines, command = sys.argv[1:cut], sys.argv[cut + 1 :]
    # The command's end stays open here, so that it can be looked at when the command is gone.
    terminal, its = os.openpty()
    child = subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    shown, echo, seen = b"", [], 0
    while lines:
        shown += os.read(terminal, 4096)
        if shown[seen:].endswith(b": "):
            seen = len(shown)
            echo.append(echoes(its))
            line = lines.pop(0)
            os.write(terminal, b"\x03" if line == "^C" else line.encode() + b"\n")
    ended = child.wait()
    os.set_blocking(terminal, False)
    try:
        while more := os.read(terminal, 4096):
            shown += more
    except BlockingIOError:
        pass
    print(json.dumps({"shown": shown.decode(), "exit": ended, "echo": echo, "echo_at_end": echoes(its)}))


main()
