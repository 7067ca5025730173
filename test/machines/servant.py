"""Runs commands in a test machine for the tests outside. Process 1 of the machine.

Reads requests and writes answers, a JSON object a line, on the device that is its argument:
  {"number": N, "command": TEXT}      runs TEXT with bash, in a session of its own
  {"number": N, "signal": S}          sends S to the processes of command N
Answers: {"began": BOOT_ID} at first, and for each command {"number": N, "status": STATUS, "output": TEXT}.
"""

import json
import os
import subprocess
import sys
import threading


class Servant:
    def __init__(self, device):
        self._device = device
        self._lock = threading.Lock()
        self._running = {}

    def serve(self):
        with open("/proc/sys/kernel/random/boot_id") as file:
            self._answer({"began": file.read().strip()})
        for line in self._device:
            request = json.loads(line)
            if "signal" in request:
                self._send_signal(request["number"], request["signal"])
            else:
                threading.Thread(target=self._run, args=(request,), daemon=True).start()

    def _run(self, request):
        process = subprocess.Popen(["bash", "-c", request["command"]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.STDOUT, cwd="/root", start_new_session=True)
        self._running[request["number"]] = process
        output = process.communicate()[0].decode(errors="replace")
        self._answer({"number": request["number"], "status": process.returncode, "output": output})

    def _send_signal(self, number, signal):
        process = self._running.get(number)
        if process is not None and process.returncode is None:
            os.killpg(process.pid, signal)

    def _answer(self, answer):
        with self._lock:
            self._device.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    with open(sys.argv[1], "r+b", buffering=0) as port:
        Servant(port).serve()
