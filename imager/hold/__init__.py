"""Holding a running server still: what is frozen, snapshotted or copied so that its volumes can be read at one moment.

    decide (pure) → copies (frozen partitions, the ESP) → window (hooks, freeze, snapshots, thaw) → watch while reading

Imports `core` and `imager.{source,spans}`. What must be undone is undone by context managers, and, when the process is
killed, by the guard (thaw, hooks) and by the sweep at the start of the next run (snapshots).
"""
