"""The rescue environment: builds kernel, squashfs, iPXE script and ISO, and serves them; what runs at boot.

May import `appliance` and whatever lies below it. Nothing is here yet.
"""
