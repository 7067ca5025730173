"""A folder of the server that its clients mount."""

FOLDER = "/export"
# For how long the server waits for its clients to reclaim what they held, and how long a lease is.
GRACE = 10


def start_nfs_server(server):
    """Also after each boot."""
    server.check(f"""set -e
mkdir -p {FOLDER} /run/rpc_pipefs /var/lib/nfs/v4recovery /var/lib/nfs/nfsdcld
chmod 1777 {FOLDER}
modprobe --all nfsd nfs lockd
mountpoint -q /proc/fs/nfsd || mount -t nfsd none /proc/fs/nfsd
mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs none /run/rpc_pipefs
echo '{FOLDER} *(rw,sync,no_root_squash,no_subtree_check,insecure,fsid=1)' >/etc/exports
rpcbind
rpc.statd
nfsdcld
exportfs -ra
rpc.mountd
rpc.nfsd --grace-time {GRACE} --lease-time {GRACE} 8""")


def start_nfs_client(client):
    client.check("set -e; modprobe --all nfs lockd; rpcbind; rpc.statd")


def start_smb_server(server):
    configuration = "\n".join([
        "[global]", "server role = standalone server", "load printers = no", "disable spoolss = yes",
        "[export]", f"path = {FOLDER}", "read only = no", "force user = root",
    ])
    server.check(f"""set -e
mkdir -p {FOLDER} /run/samba /var/log/samba /var/lib/samba/private
echo '{configuration}' >/etc/samba/smb.conf
printf 'secret\\nsecret\\n' | smbpasswd -a -s root
smbd -D
modprobe cifs""")


class Share:
    """A new folder of the server, seen by its clients under one path and by itself under another."""

    _number = 0

    def __init__(self, laboratory, kind, options):
        Share._number += 1
        name = f"share{Share._number}"
        self._machines = laboratory.clients
        self._mount = f"/mnt/{name}"
        self.at_server = f"{FOLDER}/{name}"
        # The clients' directory caches start empty: the folder is there before they look.
        laboratory.server.check(f"mkdir -m 1777 {self.at_server}")
        self.path = f"{self._mount}/{name}"
        source = f"server:{FOLDER}" if kind == "nfs" else "//server/export"
        for client in self._machines:
            client.check(f"mkdir -p {self._mount} && mount -t {kind} -o {options} {source} {self._mount}")

    def unmount(self):
        for client in self._machines:
            client.run(f"umount {self._mount} || umount -l {self._mount}")
