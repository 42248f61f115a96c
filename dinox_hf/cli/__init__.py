"""Command lines of the package: each module's `main` reads arguments, calls one function and says what came.

The console command `dinox` (dinox_command.py) and the scripts of a checkout share them.
"""
