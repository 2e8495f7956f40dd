"""What runs in the rescue environment after it booted: station (HTTPS, PIN), consoles, network, clock, unattended.

Runs there only, as root, from memory. May import `appliance`, `web` and what lies below.
"""
