"""A reading program that crashes on every file."""

import os
import signal

from fluxcube.sources.reader_process import serve


def check(path):
    os.kill(os.getpid(), signal.SIGSEGV)
    yield


if __name__ == "__main__":
    serve({"check": check})
