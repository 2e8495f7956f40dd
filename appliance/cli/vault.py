"""`refloat vault`: a folder as a site behind HTTPS. May import `appliance.vault`, `core`."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import click
import msgspec

from appliance.cli.common import Context, FilePath, command
from appliance.vault.audit import Audit
from appliance.vault.serve import serve as run_server
from appliance.vault.serve import tls_of
from appliance.vault.tokens import Role, Token
from appliance.vault.vault import Vault
from core.errors import ConfigError
from core.sizes import format_size, parse_size

_PORT = 7443


@click.group()
def vault() -> None:
    """A site behind HTTPS for many servers that need not trust each other. It holds no key that opens an image."""


def _folder(function: Callable[..., None]) -> Callable[..., None]:
    return click.argument("folder", type=FilePath())(function)


@vault.command()
@command(config=False)
@_folder
@click.option("--listen", default=f"0.0.0.0:{_PORT}", show_default=True, metavar="ADDRESS:PORT", help="Where to serve.")
@click.option("--certificate", type=FilePath(), help="PEM, with its chain; else the vault makes one, to be pinned.")
@click.option("--key", type=FilePath(), help="PEM, the certificate's key.")
def serve(context: Context, folder: Path, listen: str, certificate: Path | None, key: Path | None) -> None:
    """Serve FOLDER until SIGTERM. The folder is an ordinary file:// site, and stays one.

    \b
    refloat vault serve /srv/refloat
    refloat vault serve /srv/refloat --listen [::]:443 --certificate fullchain.pem --key privkey.pem
    """
    opened = _open(folder)
    tls = tls_of(opened, certificate, key)
    click.echo(
        f"vault {opened.id} serves {folder} at https://{listen}\ncertificate SHA-256 {tls.fingerprint}", err=True
    )
    run_server(opened, tls, listen)


@vault.command("add-server")
@command(config=False)
@_folder
@click.argument("name")
@click.option("--url", metavar="URL", help="How servers reach this vault.")
@click.option("--quota", metavar="SIZE", help="What the server may take, such as 500G.")
@click.option("--certificate", type=FilePath(), help="What `serve` is given; then nothing is pinned.")
def add_server(
    context: Context, folder: Path, name: str, url: str | None, quota: str | None, certificate: Path | None
) -> None:
    """Let server NAME append its images, and print the lines that its configuration needs.

    \b
    refloat vault add-server /srv/refloat web1 --url https://vault-de.example.net:7443 --quota 500G
    """
    opened = _open(folder)
    if quota is not None:
        opened.tokens.set_quota(name, parse_size(quota))
    token = opened.tokens.issue(Role.SERVER, name)
    _noted(opened, "token-made", token)
    place = url or f"https://{socket.getfqdn()}:{_PORT}"
    pin = "" if certificate else tls_of(opened).fingerprint
    lines = f'[[site]]\nname = "vault"  # your name for it\ncountry = "DE"  # where it stands\nurl = "{place}"\n'
    lines += 'token = "/etc/refloat/vault.token"\n' + (f'pin = "{pin}"\n' if pin else "")
    text = (
        f"On {name}, add to /etc/refloat/refloat.toml:\n\n{lines}\n"
        f"and keep this, which is shown once, in /etc/refloat/vault.token (mode 0600):\n\n{token}\n"
    )
    context.emit({"server": name, "token": token, "url": place, "pin": pin, "config": lines}, text)


@vault.command("add-token")
@command(config=False)
@_folder
@click.option("--role", type=click.Choice([Role.RESTORE.value, Role.OPERATOR.value]), required=True)
@click.option("--server", default="", help="For this server's images only.")
@click.option("--note", default="", help="What it is for; shown by `tokens`.")
def add_token(context: Context, folder: Path, role: str, server: str, note: str) -> None:
    """Make a token that reads (restore; for the recovery kit), or that prunes and replicates (operator).

    \b
    refloat vault add-token /srv/refloat --role restore > restore.token
    refloat kit add fleet.kit --credential vault:token=restore.token
    """
    opened = _open(folder)
    token = opened.tokens.issue(Role(role), server, note)
    _noted(opened, "token-made", token)
    context.emit({"role": role, "server": server, "token": token}, token)


@vault.command()
@command(config=False)
@_folder
def tokens(context: Context, folder: Path) -> None:
    """List the tokens, by id; secrets are not kept.

    \b
    refloat vault tokens /srv/refloat
    """
    opened = _open(folder)
    found = opened.tokens.all()
    context.emit(
        {"tokens": [{k: v for k, v in msgspec.to_builtins(each).items() if k != "secret"} for each in found]},
        "\n".join(_line(opened, each) for each in found) or "no tokens: `refloat vault add-server`",
    )


@vault.command()
@command(config=False)
@_folder
@click.argument("token_id")
def revoke(context: Context, folder: Path, token_id: str) -> None:
    """End a token by its id; it counts no more from the next request on.

    \b
    refloat vault revoke /srv/refloat 4fK2hYp1xQ0b
    """
    opened = _open(folder)
    ended = opened.tokens.revoke(token_id)
    Audit(opened.own / "audit").write("token-revoked", token=ended.id, role=ended.role, server=ended.server)
    context.emit({"id": ended.id, "revoked_at": ended.revoked_at}, f"{ended.id} counts no more")


@vault.command()
@command(config=False)
@_folder
@click.argument("name")
@click.argument("size")
def quota(context: Context, folder: Path, name: str, size: str) -> None:
    """Limit what server NAME may take to SIZE; 0 ends the limit.

    \b
    refloat vault quota /srv/refloat web1 500G
    """
    opened = _open(folder)
    opened.tokens.set_quota(name, parse_size(size))
    limit = format_size(parse_size(size)) if parse_size(size) else "all there is"
    used = opened.used_bytes(name)
    text = f"{name} may take {limit}, and has taken {format_size(used)}"
    context.emit({"server": name, "quota_bytes": parse_size(size), "used_bytes": used}, text)


def _open(folder: Path) -> Vault:
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}", hint="mount it, or make it if a new vault is meant")
    opened = Vault(folder)
    opened.open()
    return opened


def _noted(opened: Vault, what: str, token: str) -> None:
    found = opened.tokens.find(token)
    if found is not None:
        Audit(opened.own / "audit").write(what, token=found.id, role=found.role, server=found.server)


def _line(opened: Vault, token: Token) -> str:
    limit = opened.tokens.quota_bytes(token.server) if token.role is Role.SERVER else 0
    more = [f"revoked {token.revoked_at}"] * bool(token.revoked_at) + [f"quota {format_size(limit)}"] * bool(limit)
    whom = token.server or "all servers"
    return "  ".join([token.id, f"{token.role:<8}", f"{whom:<16}", token.made_at, *more, token.note]).rstrip()
