"""The offline comparison's report: is the candidate good enough on a folder of one's own?"""
