"""SSH into the rescue environment: off, unless a public key was handed in from outside.

By fw_cfg `opt/org.refloat/ssh-key` (a line of authorized_keys), or by the kernel's word `refloat.ssh=TYPE:BASE64`; a
public key is no secret. May import `core` and `bootenv.live.words`.
"""

from __future__ import annotations

import re
from pathlib import Path

from bootenv.live.words import fw_cfg_text
from core.errors import ConfigError
from core.run import Runner

_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)|sk-\S+) [A-Za-z0-9+/]+={0,2}( [^\n]*)?")


def ssh_key(words: dict[str, str]) -> str:
    """The key that was handed in, empty when none was. ConfigError when it is no public key."""
    text = fw_cfg_text("ssh-key") or words.get("ssh", "").replace(":", " ", 1)
    if text and not _KEY.fullmatch(text):
        raise ConfigError("the SSH key that was handed in is no public key", hint="a line as in authorized_keys")
    return text


def open_ssh(key: str, runner: Runner, root: Path = Path("/")) -> None:
    """Let this key in as root and start sshd, with a host key made now."""
    folder = root / "root/.ssh"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / "authorized_keys").write_text(key + "\n")
    host = root / "etc/ssh/ssh_host_ed25519_key"
    if not host.exists():
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(host)]
        runner.run(argv, purpose="make this boot's SSH host key")
    runner.run(["systemctl", "start", "--no-block", "ssh.service"], purpose="start sshd")
