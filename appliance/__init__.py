"""What joins the rooms: configuration, checks, the recovery kit, image and restore runs, the command line.

May import `imager`, `hardware` and `core`.
"""
