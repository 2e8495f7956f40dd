"""Places that keep images: one contract (`base`), short drivers, wrappers, a registry (`open_site`)."""
