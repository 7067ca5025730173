"""Builds the system that the test machines run: a kernel, a first file system and a disk image, all from Debian's packages."""

import contextlib
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess

SUITE = "bookworm"
PACKAGES = [
    "bash", "coreutils", "procps", "util-linux", "kmod", "iproute2", "netbase", "python3-minimal",
    "linux-image-amd64", "nfs-common", "nfs-kernel-server", "samba", "cifs-utils", "e2fsprogs", "xfsprogs",
    # What the command and the test programs link.
    "libstdc++6", "libboost-filesystem1.74.0", "libsimdjson14", "libfmt9",
]
# Left out of the image: nobody reads or runs these there.
LEFT_OUT = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"]
# The first file system finds the disk with these and what they depend on; the rest is loaded from the disk.
FIRST_MODULES = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"]
# How much the machines may write to their disks.
ROOM_MIB = 1024

HERE = pathlib.Path(__file__).resolve().parent

FIRST_INIT = """#!/bin/busybox sh
run() { /bin/busybox "$@"; }
run mount -t proc none /proc
run mount -t devtmpfs none /dev
while read -r module; do run insmod "/modules/$module"; done </modules/order
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do run sleep 0.05; done
run mount -t ext4 /dev/vda /disk
run mount --move /dev /disk/dev
run umount /proc
exec /bin/busybox switch_root /disk /sbin/machine
"""


class Guest:
    """A built system. Its files are read by any number of machines at once, and written by none."""

    def __init__(self, folder):
        self.kernel = folder / "kernel"
        self.first = folder / "first"
        self.disk = folder / "disk"


def build(cache, say):
    """Returns the system, which is built once for each list of packages and state of the files here. Takes minutes."""
    recipe = "\n".join([SUITE, *PACKAGES, FIRST_INIT, *((HERE / name).read_text() for name in ("guest.py", "machine"))])
    folder = cache / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with _lock(cache / "lock"):
        if not (folder / "complete").exists():
            say("Building the system of the test machines, once …")
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _build(folder)
            (folder / "complete").touch()
    return Guest(folder)


@contextlib.contextmanager
def _lock(path):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(folder):
    root = folder / "root"
    _install(root, folder / "log")
    version = next((root / "lib/modules").iterdir()).name
    shutil.copy(root / f"boot/vmlinuz-{version}", folder / "kernel")
    shutil.copy(HERE / "machine", root / "sbin/machine")
    (root / "sbin/machine").chmod(0o755)
    _pack_first_file_system(root, version, folder / "first")
    used = int(_output("du", "-sm", root).split()[0])
    _run("mke2fs", "-q", "-t", "ext4", "-d", root, folder / "disk", f"{used + ROOM_MIB}M")
    shutil.rmtree(root)


def _install(root, log):
    # From where this machine has its own packages.
    sources = pathlib.Path("/etc/apt/sources.list.d/debian.sources")
    if not sources.exists():
        sources = pathlib.Path("/etc/apt/sources.list")
    command = [
        "mmdebstrap", "--mode=root", "--variant=minbase", f"--include={','.join(PACKAGES)}",
        '--aptopt=Apt::Install-Recommends "false"', "--dpkgopt=force-unsafe-io", "--dpkgopt=force-confold",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT), SUITE, root, sources,
    ]
    with open(log, "w") as file:
        # The kernel's package would build an initrd for a machine that has one.
        done = subprocess.run(command, stdout=file, stderr=file, env={**os.environ, "INITRD": "No"})
    if done.returncode != 0:
        raise RuntimeError(f"the system could not be built: {log.read_text()[-2000:]}")


def _pack_first_file_system(root, version, target):
    first = target.with_name("first-files")
    for name in ("bin", "proc", "dev", "disk", "modules"):
        (first / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", first / "bin/busybox")
    needed = _output("chroot", root, "modprobe", "--set-version", version, "--all", "--show-depends", *FIRST_MODULES)
    modules = [line.split()[1] for line in needed.splitlines() if line.startswith("insmod ")]
    names = []
    for module in dict.fromkeys(modules):
        shutil.copy(root / module.lstrip("/"), first / "modules")
        names.append(pathlib.Path(module).name)
    (first / "modules/order").write_text("".join(f"{name}\n" for name in names))
    (first / "init").write_text(FIRST_INIT)
    (first / "init").chmod(0o755)
    files = subprocess.run(["find", ".", "-print0"], cwd=first, stdout=subprocess.PIPE, check=True).stdout
    with open(target, "wb") as file:
        subprocess.run(["cpio", "--null", "--create", "--format=newc", "--quiet"], cwd=first, input=files, stdout=file,
                       check=True)
    shutil.rmtree(first)


def _run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def _output(*command):
    done = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
