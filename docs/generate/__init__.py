"""Makes the parts of the pages that the code knows by itself, and writes them between their marks.

    python -m docs.generate

A page has `<!-- generated: NAME -->` and `<!-- end of NAME -->` where something of `pages.PARTS` belongs; what
stands around them is written by hand. Nothing here is part of the installed package.
"""
