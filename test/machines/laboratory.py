"""Test machines with kernels of their own: a server and its clients, on cables that only they are on."""

import json
import os
import pathlib
import queue
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

# Emulated machines are slow: no answer within this means that something hangs.
PATIENCE = 120.0
MEMORY_MIB = 768
# Emulation, of a processor without the extensions that are slow to emulate. Machines that are virtual themselves may
# have a /dev/kvm under which nothing runs.
ACCELERATOR = ["-accel", "tcg,thread=multi", "-cpu", "Nehalem"]


class Finished:
    """What came of a command: its exit status (negative: the signal that ended it) and all that it printed."""

    def __init__(self, command, status, output):
        self.command, self.status, self.output = command, status, output

    def __str__(self):
        return f"$ {self.command}\n{self.output}exit status {self.status}"


class MachineFailure(Exception):
    """A machine did not do what every machine does."""


class Started:
    """A command that runs in a machine."""

    def __init__(self, machine, number, command):
        self._machine, self._number, self._command = machine, number, command
        self._answer = queue.Queue()
        self._finished = None

    def has_ended(self):
        return self._finished is not None or not self._answer.empty()

    def wait(self, patience=PATIENCE):
        if self._finished is None:
            try:
                answer = self._answer.get(timeout=patience)
            except queue.Empty:
                raise MachineFailure(f"{self._machine.name} has not ended after {patience} s: {self._command}") from None
            if answer is None:
                raise MachineFailure(f"{self._machine.name} went down during: {self._command}")
            self._finished = Finished(self._command, answer["status"], answer["output"])
        return self._finished

    def send_signal(self, number):
        """To all processes that the command has started, but for those in sessions of their own."""
        self._machine.request({"number": self._number, "signal": int(number)})

    def kill(self):
        self.send_signal(signal.SIGKILL)
        return self.wait()

    def settle(self, answer):
        self._answer.put(answer)


class Machine:
    """A machine that runs. Thread safety: none, but for the thread inside."""

    def __init__(self, name, process, folder):
        self.name = name
        self._process = process
        self._began = queue.Queue()
        self._commands = {}
        self._numbers = 0
        self._control = folder / f"{name}.control"
        self._kernel = folder / f"{name}.kernel"
        self._port = _connect(folder / f"{name}.port")
        threading.Thread(target=self._listen, daemon=True).start()

    def wait_until_up(self):
        try:
            return self._began.get(timeout=PATIENCE)
        except queue.Empty:
            messages = self._kernel.read_text(errors="replace")[-2000:]
            raise MachineFailure(f"{self.name} did not come up: {messages}") from None

    def start(self, command):
        self._numbers += 1
        started = Started(self, self._numbers, command)
        self._commands[self._numbers] = started
        self.request({"number": self._numbers, "command": command})
        return started

    def run(self, command, patience=PATIENCE):
        return self.start(command).wait(patience)

    def check(self, command):
        """Its output; raises where it fails."""
        finished = self.run(command)
        if finished.status != 0:
            raise MachineFailure(f"{self.name}: {finished}")
        return finished.output

    def wait_for(self, condition, patience=PATIENCE):
        """Until the command `condition` succeeds."""
        self.check(f"for ((i = 0; i < {int(patience * 5)}; ++i)); do {{ {condition}; }} && exit 0; sleep 0.2; done; exit 1")

    def crash_and_boot(self):
        """As if the power had failed for a moment: nothing is written to disk before."""
        lost, self._commands = self._commands, {}
        control = _connect(self._control)
        with control, control.makefile("rw") as stream:
            stream.readline()
            for command in ("qmp_capabilities", "system_reset"):
                stream.write(json.dumps({"execute": command}) + "\n")
                stream.flush()
                while "return" not in json.loads(stream.readline()):
                    pass
        for started in lost.values():
            started.settle(None)
        self.wait_until_up()

    def switch_off(self):
        """As if its plug had been pulled; it does not come back."""
        self._process.kill()
        self._process.wait()
        for started in self._commands.values():
            started.settle(None)

    def request(self, message):
        self._port.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self):
        with self._port.makefile("rb") as stream:
            for line in stream:
                try:
                    answer = json.loads(line)
                except ValueError:
                    continue  # half a line of a machine that crashed
                if "began" in answer:
                    self._began.put(answer["began"])
                else:
                    started = self._commands.pop(answer["number"], None)
                    if started is not None:
                        started.settle(answer)


class Laboratory:
    """A server and clients. Ends them all with the `with` statement."""

    def __init__(self, guest, payload, clients=2):
        self._guest, self._payload, self._client_count = guest, payload, clients
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="sessionlock-machines."))
        self._processes = []
        self.server = None
        self.clients = []

    def __enter__(self):
        try:
            names = [f"client{number}" for number in range(1, self._client_count + 1)]
            self._pack_payload()
            # The server's end of each cable has to be there first.
            self.server = self._boot("server", {name: index for index, name in enumerate(names, 1)}, True)
            self.clients = [self._boot(name, {"server": index}, False) for index, name in enumerate(names, 1)]
            for machine in (self.server, *self.clients):
                machine.wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _pack_payload(self):
        self._image = self._folder / "payload"
        megabytes = int(subprocess.run(["du", "-sm", str(self._payload)], stdout=subprocess.PIPE, check=True,
                                       text=True).stdout.split()[0])
        subprocess.run(["mke2fs", "-q", "-t", "ext2", "-d", str(self._payload), str(self._image), f"{megabytes + 16}M"],
                       check=True)

    def _boot(self, name, peers, is_server):
        arguments, addresses, hosts = [], [], []
        for peer, cable in peers.items():
            ends = ("on", "1", f"52:54:00:00:{cable:02x}:01"), ("off", "2", f"52:54:00:00:{cable:02x}:02")
            (listens, last, mac), (_, other, _) = ends if is_server else ends[::-1]
            path = self._folder / f"cable{cable}"
            if not is_server:
                _wait_for_path(path)
            arguments += ["-netdev", f"stream,id=n{cable},server={listens},addr.type=unix,addr.path={path}",
                          "-device", f"virtio-net-pci,netdev=n{cable},mac={mac},romfile="]
            addresses.append(f"{mac}=10.77.{cable}.{last}")
            hosts.append(f"{peer}=10.77.{cable}.{other}")
        names = f"machine.name={name} machine.addresses={','.join(addresses)} machine.hosts={','.join(hosts)}"
        folder, port, control = self._folder, self._folder / f"{name}.port", self._folder / f"{name}.control"
        command = [
            "qemu-system-x86_64", *ACCELERATOR, "-machine", "q35,smbus=off,usb=off,vmport=off", "-smp", "2",
            "-m", str(MEMORY_MIB), "-display", "none", "-nodefaults", "-no-user-config",
            "-kernel", str(self._guest.kernel), "-initrd", str(self._guest.first),
            "-append", f"console=ttyS0 quiet mitigations=off audit=0 panic=-1 {names}",
            "-drive", f"file={self._guest.disk},format=raw,if=none,id=disk,snapshot=on",
            "-device", "virtio-blk-pci,drive=disk",
            "-drive", f"file={self._image},format=raw,if=none,id=payload,readonly=on",
            "-device", "virtio-blk-pci,drive=payload",
            "-device", "virtio-rng-pci", "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=port,path={port},server=on,wait=off", "-device", "virtserialport,chardev=port",
            "-serial", f"file:{folder / name}.kernel", "-qmp", f"unix:{control},server=on,wait=off", *arguments,
        ]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(folder)})
        self._processes.append(process)
        return Machine(name, process, folder)


def _wait_for_path(path):
    until = time.monotonic() + PATIENCE
    while not path.exists():
        if time.monotonic() > until:
            raise MachineFailure(f"there is no {path.name}")
        time.sleep(0.05)


def _connect(path):
    """Once the other end is there, which has a name before it listens."""
    until = time.monotonic() + PATIENCE
    while True:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(path))
            return connection
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            if time.monotonic() > until:
                raise MachineFailure(f"nothing listens at {path.name}") from None
            time.sleep(0.05)
