"""Live push for threaded Python. (API filled in as modules land.)"""

__version__ = "0.1.0"
