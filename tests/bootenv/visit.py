"""Visits a rescue console as a browser does, and prints the page behind the PIN: `visit.py ADDRESS FINGERPRINT PIN`.

Run inside the lab's network. Exits with 1 when the certificate is another one, 2 when the PIN is refused, 3 when
the PIN is taken a second time.
"""

from __future__ import annotations

import hashlib
import http.cookiejar
import ssl
import sys
import urllib.error
import urllib.parse
import urllib.request


def main(address: str, fingerprint: str, pin: str) -> int:
    found = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((address, 443), timeout=60))
    if hashlib.sha256(found).hexdigest() != fingerprint.replace(":", "").lower():
        return 1
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for number in (1, 2):
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        browser = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context), jar)
        data = urllib.parse.urlencode({"pin": pin}).encode()
        try:
            with browser.open(f"https://{address}/pin", data, timeout=120) as answer:
                page = answer.read().decode()
        except urllib.error.HTTPError as error:
            if number == 1 or error.code != 403:
                return 2
            return 0
        if number == 2:
            return 3
        print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
