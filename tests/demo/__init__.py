"""`make demo`: the main job on loop devices, with the commands a person would type, and proofs at the end.

`disk` makes the server's disk and its next day and takes its fingerprint, `stage` shows and runs commands, `__main__`
tells the story. Nothing here is imported by Refloat.
"""
