"""
The plug-in package is not a part of these tests: ``test_plugin`` installs and runs it.
"""

collect_ignore = ["plugin"]
