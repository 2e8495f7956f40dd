"""Keeping: which images stay (`policy`), what a site says of them (`records`, `prune`), and space (`gc`)."""
