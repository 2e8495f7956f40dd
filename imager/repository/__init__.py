"""The `repository` mechanism: position-based increments in packs and maps (`docs/format.md`).

`frames`, `packs`, `segments`, `manifest` are the format; `layers` its algebra; `store` names and loads objects at a
site; `capture` writes an image, `restore` and `view` read one, `journal` carries a killed run over to the next.
"""
