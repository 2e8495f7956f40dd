"""What is served: iPXE's script, files by ranges, nothing else; and what dnsmasq is told."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bootenv.addresses import Port
from bootenv.cpio import Entry, archive
from bootenv.dnsmasq import Place, dnsmasq_config
from bootenv.fileserver import FileServer, byte_range
from bootenv.live.clock import correct_clock, read_clock
from bootenv.script import Digests, chain_script, ipxe_script
from bootenv.serve import choose_place
from core.errors import ConfigError

DIGESTS = Digests("a" * 64, "b" * 64)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "vmlinuz").write_bytes(bytes(range(256)) * 16)
    (tmp_path / "secret").write_text("not for you")
    with FileServer(tmp_path, DIGESTS, ("127.0.0.1", 0), ["refloat.ssh=x"]) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def _get(server: FileServer, path: str, verb: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request(verb, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


@pytest.mark.block
def test_files_whole_and_in_part(server: FileServer) -> None:
    whole = bytes(range(256)) * 16
    status, headers, body = _get(server, "/vmlinuz")
    assert (status, body, headers["Content-Length"]) == (200, whole, "4096") and headers["Date"]
    status, headers, body = _get(server, "/vmlinuz", Range="bytes=10-19")
    assert (status, body, headers["Content-Range"]) == (206, whole[10:20], "bytes 10-19/4096")
    assert _get(server, "/vmlinuz", Range="bytes=-6")[2] == whole[-6:]
    assert _get(server, "/vmlinuz", Range="bytes=4096-")[0] == 416
    assert _get(server, "/vmlinuz", "HEAD")[2] == b""


@pytest.mark.block
@pytest.mark.parametrize("path", ["/secret", "/../etc/passwd", "//etc/passwd", "/", "/%2e%2e/secret", "/initrd.img"])
def test_nothing_else_is_served(server: FileServer, path: str) -> None:
    assert _get(server, path)[0] == 404


@pytest.mark.block
def test_the_script_names_where_it_was_asked(server: FileServer) -> None:
    status, _, body = _get(server, "/boot.ipxe")
    assert status == 200
    assert body.decode() == ipxe_script(DIGESTS, f"http://127.0.0.1:{server.server_port}/", ["refloat.ssh=x"])


def test_the_kernel_line_says_what_uefi_and_the_initrd_need() -> None:
    script = ipxe_script(DIGESTS, "http://192.0.2.1:8080/")
    (line,) = [each for each in script.splitlines() if each.startswith("kernel ")]
    words = line.split()
    assert words[1] == "http://192.0.2.1:8080/vmlinuz"
    assert {"initrd=initrd.img", "boot=refloat", "refloat.url=http://192.0.2.1:8080/"} <= set(words)
    assert f"refloat.digest={'a' * 64},{'b' * 64}" in words
    assert "chain http://192.0.2.1:8080/boot.ipxe" in chain_script("http://192.0.2.1:8080/")


@pytest.mark.block
def test_the_boot_server_s_clock_is_read_and_followed(server: FileServer) -> None:
    url = f"http://127.0.0.1:{server.server_port}/no-such-file"
    reading = read_clock(url, now=lambda: time.time() - 86400)
    assert reading is not None and abs(reading.ahead_seconds - 86400) < 5
    moved: list[float] = []
    assert correct_clock([url, "file:///srv", ""], moved.append) == (1, 0.0) and moved == []
    assert read_clock("http://127.0.0.1:1/", timeout=2) is None


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)), ("bytes=0-", (0, 100)), ("bytes=0-0", (0, 1)), ("bytes=90-200", (90, 10)),
        ("bytes=-10", (90, 10)), ("bytes=-200", (0, 100)), ("bytes=100-", None), ("bytes=-0", None),
        ("bytes=5-4", (0, 100)), ("bytes=-", (0, 100)), ("bytes=0-1,3-4", (0, 100)), ("lines=1-2", (0, 100)),
    ],
)  # fmt: skip
def test_ranges(header: str | None, expected: tuple[int, int] | None) -> None:
    assert byte_range(header, 100) == expected


def test_dnsmasq_answers_pxe_only() -> None:
    lines = dnsmasq_config(Place("eno1", "192.0.2.10/24", 8080), Path("/srv/rescue/tftp")).splitlines()
    assert "dhcp-range=192.0.2.0,proxy,255.255.255.0" in lines and "port=0" in lines
    assert not [line for line in lines if line.startswith("dhcp-range=") and ",proxy," not in line]
    assert 'pxe-service=tag:!ipxe,X86-64_EFI,"Refloat rescue environment",snponly.efi' in lines


def test_where_to_serve() -> None:
    ports = (Port("eno1", True, ("192.0.2.10/24", "2001:db8::1/64")), Port("eno2", False, ("198.51.100.1/24",)))
    assert choose_place(ports, "", "", 8080) == Place("eno1", "192.0.2.10/24", 8080)
    assert choose_place(ports, "eno2", "", 80).url == "http://198.51.100.1:80/"
    for interface, address in (("eno3", ""), ("eno1", "198.51.100.1")):
        with pytest.raises(ConfigError, match="no interface fits"):
            choose_place(ports, interface, address, 8080)
    with pytest.raises(ConfigError, match="not clear"):
        choose_place((*ports, Port("eno3", True, ("203.0.113.1/24",))), "", "", 8080)


def test_the_archive_is_what_the_kernel_reads() -> None:
    data = archive([Entry("scripts", 0o40755), Entry("scripts/refloat", 0o100644, b"hello")])
    assert len(data) % 4 == 0 and data.count(b"070701") == 3
    # from buffer-format.rst: thirteen fields of eight hex digits after the magic number, name, padding, data
    start = data.index(b"070701", 6)
    fields = [int(data[start + 6 + 8 * n : start + 14 + 8 * n], 16) for n in range(13)]
    assert (fields[1], fields[6], fields[11]) == (0o100644, 5, len("scripts/refloat") + 1)
    content = start + 110 + fields[11] + (-(110 + fields[11])) % 4
    assert data[content : content + 5] == b"hello"
