import ctypes
import os
import signal
import socket
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
# The name of this process and of all that it forks.
libc.prctl(15, b"{MARK}", 0, 0, 0)
# Processes and threads. Outside a namespace the limit of 16 comes on top of what the same user runs elsewhere, as the tests beside
# this one do, and some of that ends meanwhile.
MOST_TASKS = 64


def escaped(what):
    print("ESCAPED:", what, flush=True)


def attempt(what, deed):
    """It is an escape if this works."""
    try:
        result = deed()
    except (OSError, ValueError, MemoryError) as error:
        print("contained:", what, type(error).__name__, error, flush=True)
        return False
    if result is False or (type(result) is int and result < 0):
        print("contained:", what, os.strerror(ctypes.get_errno()), flush=True)
        return False
    escaped(what)
    return True


def read(path):
    with open(path, "rb") as file:
        return len(file.read(1000)) > 0


def write(path):
    with open(path, "wb") as file:
        file.write(b"defaced")


def fill_disk(after_opening):
    for number in range(8):
        file = os.open(str(number), os.O_RDWR | os.O_CREAT)
        after_opening(str(number))
        for _ in range(31):
            os.write(file, bytes(1 << 20))
    time.sleep(1)


def syscall(*arguments):
    return libc.syscall(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
