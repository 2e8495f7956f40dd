"""The lab's servers by name. Each is made hard to restore: only its own firmware's boot loader, an initramfs with only
its own drivers, addresses bound to its cards."""

from tests.lab.servers.base import Server
from tests.lab.servers.plain import PLAIN
from tests.lab.servers.raid import RAID
from tests.lab.servers.thick import THICK
from tests.lab.servers.thin import THIN

SERVERS: dict[str, Server] = {server.name: server for server in (THICK, THIN, RAID, PLAIN)}
