"""What stands on disks and partitions: md arrays, LUKS containers, LVM groups. A module for each, `read` joins them.

Facts come from sysfs and from `mdadm`, `cryptsetup` and `lvs`/`vgs`/`pvs` (blivet was measured and lost an array and
all that stood on it: `docs/design.md`). What is there but not running (an array that is not assembled, a container
that is locked, a group that is not active) is not described: its carrier is then imaged whole, as anything unknown is.
"""
