"""Tests; the folders mirror the rooms. May import everything."""
