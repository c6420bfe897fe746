"""Run a command that dies with the process that started it: ``python deploy/child.py PARENT COMMAND ...``.

A killed replica must not leave a server behind that keeps the GPU's memory.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it died before that
            sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
