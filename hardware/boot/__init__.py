"""Makes a restored server boot on the hardware it stands on now. `make.make_bootable` is the way in.

Nothing that lies in the restored system is ever executed: it was written by the server, and the rescue environment
holds the keys of the whole fleet.
"""
