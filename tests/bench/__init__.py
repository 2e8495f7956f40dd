"""`make bench`: Refloat against the tools a host would use otherwise, on one made-up but lifelike disk.

`workload` makes the disk and its next day, `measure` times one command with its memory, `peers` and `ours` are the
contestants, `memory` images a 16 TiB disk, `report` judges and draws. Nothing here is imported by Refloat.
"""
