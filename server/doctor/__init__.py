"""`pointsman doctor`: the usual mistakes, found, and what to do about each.

One module for each thing that is looked at. None of them changes what it looks at.
"""
