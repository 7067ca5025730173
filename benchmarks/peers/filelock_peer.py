"""Python's filelock: `soft` (a file that exists) and `native` (flock). Speaks as peer.hpp says."""

import os
import sys
import time

import filelock


def contend(lock, seconds, oracle):
    cycles = overlaps = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with lock:
            try:
                os.mkdir(oracle)
                time.sleep(0.001)
                os.rmdir(oracle)
            except FileExistsError:
                overlaps += 1
        cycles += 1
    return f"{cycles} {overlaps}"


def obey(lock, command, *arguments):
    if command == "acquire":
        lock.acquire()
        return time.monotonic_ns()
    begin = time.monotonic_ns()
    if command == "release":
        lock.release()
        return begin
    if command == "cycles":
        for _ in range(int(arguments[0])):
            lock.acquire()
            lock.release()
        return time.monotonic_ns() - begin
    return contend(lock, float(arguments[0]), arguments[1])


def main():
    variant, path = sys.argv[1:]
    lock = (filelock.SoftFileLock if variant == "soft" else filelock.FileLock)(path + ".lock")
    print("ready", flush=True)
    for line in sys.stdin:
        print("ok", obey(lock, *line.split()), flush=True)


if __name__ == "__main__":
    main()
