"""`refloat mount`: the volumes of an image as read-only files. May import `appliance`, `imager`, `core`."""

from __future__ import annotations

import shlex
import signal
from pathlib import Path

import click

from appliance.catalog import Catalog
from appliance.cli.common import Context, command
from core.errors import ConfigError
from core.sizes import format_size
from imager.repository.view import ImageView
from imager.volumefs import VolumeFiles, serve


@click.command()
@command(unlock=True)
@click.argument("image")
@click.argument("folder", type=click.Path(path_type=Path))
def mount(context: Context, image: str, folder: Path) -> None:
    """Show IMAGE's volumes as raw read-only files in FOLDER, until it is unmounted or Ctrl-C.

    What is read is fetched, decrypted and checked then; nothing is restored first.

    \b
    refloat mount web1/latest /mnt --kit fleet.kit &
    mount -o loop,ro /mnt/vda-part3 /srv/look
    fusermount3 -u /mnt
    """
    opened = Catalog(context.unlock(), context.monitor).open(image)
    if not folder.is_dir() or any(folder.iterdir()):
        raise ConfigError(f"{folder} is not an empty folder", hint="make one and mount there")
    manifest = opened.manifest
    volumes = [{"name": each.spec.name, "size_bytes": each.spec.size_bytes} for each in manifest.volumes]
    lines = "\n".join(f"  {folder}/{each.spec.name}  {format_size(each.spec.size_bytes)}" for each in manifest.volumes)
    end = f"serving until `fusermount3 -u {shlex.quote(str(folder))}` or Ctrl-C"
    context.emit(
        {"server": manifest.server.name, "image": manifest.image, "folder": str(folder), "volumes": volumes},
        f"{manifest.server.name}/{manifest.image}:\n{lines}\n{end}",
    )
    # libfuse unmounts on these, but only where nobody else has a handler (fuse_set_signal_handlers)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    serve(VolumeFiles(ImageView(opened), manifest), folder)
