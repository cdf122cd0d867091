"""Run a command that must not outlive its owner: `python supervise.py COMMAND…`, with a pipe as stdin.

The pipe closes when the owner exits, even by `kill -9`; then the command and all its child processes are ended. A model
server that is left behind would occupy the GPUs of the next run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

# Seconds that the command has to exit after SIGTERM.
GRACE_S = 15.0


def main(command: list[str]) -> int:
    """Run the command in a session of its own; return its exit status, or 143 if it was ended from here."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    is_ended = threading.Event()

    def end(*_: int | FrameType | None) -> None:
        if not is_ended.is_set():
            is_ended.set()
            threading.Thread(target=_end_group, args=(process,), daemon=True).start()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner handles Ctrl-C and closes the pipe
    threading.Thread(target=_await_end, args=(end,), daemon=True).start()
    status = process.wait()
    _signal_group(process, signal.SIGKILL)  # workers left behind
    return 128 + signal.SIGTERM if is_ended.is_set() else status


def _await_end(end: Callable[[], None]) -> None:
    """Call `end` when stdin is closed."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    end()


def _end_group(process: subprocess.Popen[bytes]) -> None:
    _signal_group(process, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_S)
    _signal_group(process, signal.SIGKILL)


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
