"""Live push for threaded Python. (API filled in as modules land.)"""
