"""The commands that talk to a running server, through the public client alone.

`cli` and `arms` turn flags into requests; `tables`, `story` and `learning` turn answers into words.
"""
