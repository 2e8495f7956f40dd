"""The ground every other room stands on: errors, processes, sizes, progress, settings, shared values.

May import nothing of Refloat outside `core`.
"""

__version__ = "0.1.0"
