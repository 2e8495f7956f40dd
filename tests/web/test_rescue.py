"""The rescue console's pages: nothing without the PIN, what a page may load, errors with their hints; and over TLS."""

from __future__ import annotations

import hashlib
import http.client
import ssl
import threading
import time

import pytest
from flask.testing import FlaskClient

from bootenv.live.advice import Advice
from bootenv.live.https import HttpsServer
from core.certificate import make_certificate
from core.errors import SourceError
from hardware.machine import Device, Dmi, Inventory, Nic
from web.rescue import Advice as AdviceLike
from web.rescue import create_app

INVENTORY = Inventory(
    firmware="uefi",
    dmi=Dmi(vendor="ACME", product="<b>Server</b>", uuid="4c4c4544-0042-4d10-8054-b7c04f334432"),
    nics=(Nic(name="eno1", mac="52:54:00:00:00:01", driver="igb", speed_mbit=1000, link=True),),
    devices=(Device(path="/dev/nvme0n1", name="nvme0n1", size_bytes=1 << 40, serial="S4EWNX0R123", model="Disk"),),
)


class Machine:
    """Services with one PIN; `broken` makes the inventory fail."""

    def __init__(self) -> None:
        self.pin, self.broken, self.rescans = "12345678", False, 0

    def admit(self, pin: str) -> bool:
        good, self.pin = pin == self.pin, "" if pin == self.pin else self.pin
        return good

    def inventory(self) -> Inventory:
        if self.broken:
            raise SourceError("the bus is gone", hint="look at the cables")
        return INVENTORY

    def advice(self) -> list[AdviceLike]:
        return [Advice("RAID controller 0000:01:00.0", "shows no disk", "Create a virtual drive")]

    def rescan(self) -> None:
        self.rescans += 1


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def client(machine: Machine) -> FlaskClient:
    return create_app(machine).test_client()


def _enter(client: FlaskClient) -> None:
    answer = client.post("/pin", data={"pin": "12345678"}, base_url="https://localhost")
    assert answer.status_code == 303
    (cookie,) = answer.headers.getlist("Set-Cookie")
    assert all(word in cookie for word in ("__Host-refloat=", "Secure", "HttpOnly", "SameSite=Strict", "Path=/"))


@pytest.mark.parametrize(("verb", "path"), [("GET", "/"), ("POST", "/rescan"), ("GET", "/nothing")])
def test_without_the_pin_there_is_only_the_form(client: FlaskClient, machine: Machine, verb: str, path: str) -> None:
    answer = client.open(path, method=verb, base_url="https://localhost")
    assert answer.status_code == 302 and answer.headers["Location"] == "/pin"
    assert machine.rescans == 0
    assert b"Confirmed by" not in client.get("/pin", base_url="https://localhost").data


def test_a_wrong_pin_is_refused(client: FlaskClient) -> None:
    answer = client.post("/pin", data={"pin": "00000000"}, base_url="https://localhost")
    assert answer.status_code == 403 and "Set-Cookie" not in answer.headers
    assert client.get("/", base_url="https://localhost").status_code == 302


def test_the_machine_is_shown_and_its_words_are_no_markup(client: FlaskClient) -> None:
    _enter(client)
    page = client.get("/", base_url="https://localhost").text
    assert "S4EWNX0R123" in page and "52:54:00:00:00:01" in page and "Create a virtual drive" in page
    assert "<b>Server" not in page and "&lt;b&gt;Server" in page


def test_pages_load_nothing_from_elsewhere_and_are_not_kept(client: FlaskClient) -> None:
    for path in ("/pin", "/static/rescue.css"):
        with client.get(path, base_url="https://localhost") as answer:
            headers = answer.headers
        assert headers["Cache-Control"] == "no-store" and "default-src 'none'" in headers["Content-Security-Policy"]


def test_looking_again_is_for_this_page_only(client: FlaskClient, machine: Machine) -> None:
    _enter(client)
    foreign = client.post("/rescan", base_url="https://localhost", headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403 and machine.rescans == 0
    assert client.post("/rescan", base_url="https://localhost").status_code == 303 and machine.rescans == 1


def test_an_error_shows_its_hint(client: FlaskClient, machine: Machine) -> None:
    _enter(client)
    machine.broken = True
    answer = client.get("/", base_url="https://localhost")
    assert answer.status_code == 409 and "the bus is gone" in answer.text and "look at the cables" in answer.text


@pytest.mark.block
def test_over_tls_with_the_fingerprint_shown_and_a_silent_client_beside() -> None:
    certificate = make_certificate("refloat-rescue")
    server = HttpsServer(create_app(Machine()), certificate.pem, host="127.0.0.1", port=0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    silent = http.client.HTTPConnection("127.0.0.1", server.server_port)
    try:
        silent.connect()  # and says nothing: no handshake
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        browser = http.client.HTTPSConnection("127.0.0.1", server.server_port, timeout=10, context=context)
        started = time.monotonic()
        browser.connect()
        assert isinstance(browser.sock, ssl.SSLSocket)
        found = hashlib.sha256(browser.sock.getpeercert(binary_form=True) or b"").hexdigest().upper()
        assert ":".join(found[n : n + 2] for n in range(0, 64, 2)) == certificate.fingerprint
        browser.request("GET", "/pin")
        answer = browser.getresponse()
        assert answer.status == 200 and b"8 digits" in answer.read()
        assert time.monotonic() - started < 10
        browser.close()
    finally:
        silent.close()
        server.shutdown()
        thread.join()
        server.server_close()
