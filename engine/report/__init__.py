"""
What reports are made of, whatever they tell: a page of HTML that needs nothing else, and the seal
by which a change of it is found.
"""
