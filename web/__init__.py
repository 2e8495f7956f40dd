"""The pages: the rescue console and the fleet console (Flask, blueprints). No logic, no disk access of its own.

May import `appliance` and whatever lies below it. Nothing is here yet: the rescue console is the first to come.
"""
