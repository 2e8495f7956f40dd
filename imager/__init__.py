"""The image path: freeze → read → encode → store, and back. May import `core` only."""
