"""The vault: one folder as a site for many servers, behind HTTPS (`docs/vault.md`). It has no key that opens anything.

`tokens` and `rights` say who may do what, `vault` keeps objects, `app` speaks HTTP, `serve` runs it.
"""
