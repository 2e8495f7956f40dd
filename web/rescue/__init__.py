"""The rescue console's pages: PIN form, what hardware is here, how to restore. An application factory, no logic.

`create_app(services)` gives the WSGI application; everything it shows or does comes from the services. May import
`hardware.machine` for values and `core`.
"""

from __future__ import annotations

import secrets
from typing import Protocol

from flask import Flask, Response, abort, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from core import __version__
from core.errors import RefloatError
from core.sizes import format_size
from hardware.machine import Inventory, tokens

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Advice(Protocol):
    """A piece of hardware that is of no use yet, and what to do about it."""

    @property
    def device(self) -> str: ...
    @property
    def problem(self) -> str: ...
    @property
    def hint(self) -> str: ...


class Services(Protocol):
    """What the pages need of the machine. Methods raise RefloatError, which the pages show with its hint."""

    def admit(self, pin: str) -> bool:
        """Whether the PIN is right; it is then used up."""
        ...

    def inventory(self) -> Inventory:
        """The hardware as it is now."""
        ...

    def advice(self) -> list[Advice]:
        """Controllers without a disk, devices without a driver."""
        ...

    def rescan(self) -> None:
        """Look for hardware that appeared since."""
        ...


def create_app(services: Services) -> Flask:
    """The application. Whoever gave a PIN holds a cookie until the machine restarts."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_bytes(32),
        SESSION_COOKIE_NAME="__Host-refloat",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Strict",
        MAX_CONTENT_LENGTH=64 << 10,
    )
    app.jinja_env.filters["size"] = format_size
    app.jinja_env.globals["version"] = __version__

    @app.before_request
    def require_pin() -> AnyResponse | None:
        if request.endpoint in ("static", "pin", "enter") or session.get("admitted"):
            return None
        return redirect(url_for("pin"))

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers.update(_HEADERS)
        return response

    @app.errorhandler(RefloatError)
    def show_error(error: RefloatError) -> tuple[str, int]:
        return render_template("error.html", error=error), error.http_status

    @app.get("/pin")
    def pin() -> str:
        return render_template("pin.html", wrong=False)

    @app.post("/pin")
    def enter() -> AnyResponse | tuple[str, int]:
        if not services.admit(request.form.get("pin", "")):
            return render_template("pin.html", wrong=True), 403
        session.clear()
        session["admitted"] = True
        return redirect(url_for("machine"), code=303)

    @app.get("/")
    def machine() -> str:
        inventory = services.inventory()
        return render_template("machine.html", inventory=inventory, tokens=tokens(inventory), advice=services.advice())

    @app.post("/rescan")
    def rescan() -> AnyResponse:
        if request.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            abort(403)
        services.rescan()
        return redirect(url_for("machine"), code=303)

    return app
