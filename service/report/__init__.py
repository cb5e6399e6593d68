"""The report of an offline comparison: is the candidate good enough on the user's own images?"""
