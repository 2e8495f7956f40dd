"""The lab: real servers on virtual hardware, imaged while they run and restored onto other hardware.

`cache` keeps what was built, `rootfs` and `disks` build servers, `network` is a namespace for everything, `machine`
describes a QEMU machine and `running` drives one, `scenarios` are the chains that are proven. `python -m tests.lab`.
Nothing here is imported by Refloat; only root and QEMU are needed, no KVM.
"""
