"""Where images come from: generators, published files and a user's own pictures, behind one contract.

`sources.open_source` opens any of them by name or path; `base.Source` is what it returns.
"""
