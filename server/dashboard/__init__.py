"""The page that operators look at, and the JSON that it is made of.

`doors` decides whether a request is looked at at all, `assets` are the page's files, `api` what it shows and `actions`
what it changes. Figures over the whole log are kept by a process of their own: `tallies` runs it, `tally` is it.
"""
