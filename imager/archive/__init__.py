"""The second mechanism: an age-encrypted, zstd-compressed tar of extents that a person opens with stock tools
(`docs/archive.md`). It shares the frozen devices and the digests with `imager.repository`, and none of its code."""
