"""What a machine is made of: inventory, layout, plan, apply. It learns, decides and prepares; it moves no image bytes.

May import `core` only. `machine`, `placement`, `actions` and `plan` do no I/O; the others touch devices.
"""
