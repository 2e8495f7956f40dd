"""Trees of files, copied and compared: `hardware.trees.child` runs as a program of its own where filesystems are
mounted privately, and `hardware.trees.task` asks it. Paths are bytes, for a name need not be text. Imports `core` only.
"""
